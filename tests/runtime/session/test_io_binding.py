"""IO binding, tested on the CPU with the code that also serves GPUs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime
import pytest

import runtime
from runtime.array_types import Array
from runtime.artifact.reader import read_manifest
from runtime.session import providers, session
from runtime.session.io_binding import DeviceRunner
from runtime.session.provider_options import CpuOptions

TEXTS = [f"text {number} " * (1 + number % 9) for number in range(100)]


@pytest.fixture
def graph(exported_text: Path) -> onnxruntime.InferenceSession:
    return session.open_graph(exported_text / "text.onnx", providers.PROVIDERS["cpu"], CpuOptions(), 1)


@pytest.fixture
def runner(exported_text: Path, graph: onnxruntime.InferenceSession) -> DeviceRunner:
    output = read_manifest(exported_text).towers["text"].output
    return DeviceRunner(graph, output, providers.PROVIDERS["cpu"], CpuOptions(), max_cached_shapes=3)


def feeds(rows: int, length: int, seed: int = 0) -> dict[str, Array]:
    ids = np.random.default_rng(seed).integers(5, 300, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_buffers_are_reused_and_each_call_gets_its_own_vectors(
    runner: DeviceRunner, graph: onnxruntime.InferenceSession
) -> None:
    batches = [feeds(3, 8), feeds(3, 8, seed=1), feeds(2, 5), feeds(3, 8)]
    given = [{name: array.copy() for name, array in batch.items()} for batch in batches]
    vectors = [runner.run(batch) for batch in batches]
    assert len(runner.cached_shapes) == 2
    for ours, batch in zip(vectors, given, strict=True):
        np.testing.assert_allclose(ours, graph.run(None, batch)[0], atol=1e-6)
    for batch, before in zip(batches, given, strict=True):
        np.testing.assert_array_equal(batch["input_ids"], before["input_ids"])


def test_buffers_of_the_shapes_used_least_recently_are_freed(runner: DeviceRunner) -> None:
    for length in (4, 5, 6, 4, 7):
        runner.run(feeds(2, length))
    assert [shapes[0] for shapes in runner.cached_shapes] == [(2, 6), (2, 4), (2, 7)]


def test_callers_take_turns(runner: DeviceRunner, graph: onnxruntime.InferenceSession) -> None:
    batches = [feeds(4, 6, seed) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for batch, vectors in zip(batches, pool.map(runner.run, batches), strict=True):
            np.testing.assert_allclose(vectors, graph.run(None, batch)[0], atol=1e-6)


def test_an_embedder_on_a_device_pads_to_buckets_and_gives_the_same_vectors(
    exported_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU is declared to be a device with its own memory."""
    expected = runtime.load(exported_text, provider="cpu").embed(TEXTS)
    device = replace(providers.PROVIDERS["cpu"], device="cuda", sequence_multiple=16, pads_batches=True)
    monkeypatch.setattr(session, "find_provider", lambda name: device)
    monkeypatch.setattr(session, "find_provider_obstacle", lambda provider: None)
    monkeypatch.setattr(providers, "PROVIDERS", MappingProxyType({"cpu": device}))
    shapes = set()

    class Recorder(DeviceRunner):
        def __init__(self, graph: Any, output: Any, provider: Any, options: Any) -> None:
            super().__init__(graph, output, replace(provider, device="cpu"), options)

        def run(self, feeds: Any) -> Any:
            shapes.add(feeds["input_ids"].shape)
            return super().run(feeds)

    monkeypatch.setattr(session, "DeviceRunner", Recorder)
    np.testing.assert_allclose(runtime.load(exported_text, provider="cpu").embed(TEXTS), expected, atol=2e-6)
    assert all(rows.bit_count() == 1 and length % 16 == 0 for rows, length in shapes)
    assert shapes
