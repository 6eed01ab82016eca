"""Bound buffers, on the one device that every machine has: the CPU. The same code binds those of a GPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import pytest

import runtime
from runtime.inference.pipeline import Pipeline
from runtime.session import providers, session
from runtime.session.io_binding import DeviceRunner

TEXTS = [f"text {number} " * (1 + number % 9) for number in range(100)]


@pytest.fixture
def runner(exported_text: Path) -> DeviceRunner:
    loaded = cast("Pipeline", runtime.load(exported_text, provider="cpu").backend).towers["text"].session
    return DeviceRunner(loaded._session, loaded._output, loaded.provider, loaded.provider_options)


def feeds(rows: int, length: int, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    ids = np.random.default_rng(seed).integers(5, 300, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_buffers_are_used_again_and_give_each_call_its_own_vectors(runner: DeviceRunner) -> None:
    batches = [feeds(3, 8), feeds(3, 8, seed=1), feeds(2, 5), feeds(3, 8)]
    given = [{name: array.copy() for name, array in batch.items()} for batch in batches]
    vectors = [runner.run(batch) for batch in batches]
    assert len(runner._kept) == 2
    direct = [runner._session.run(None, batch)[0] for batch in given]
    for ours, theirs in zip(vectors, direct, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    for batch, before in zip(batches, given, strict=True):
        np.testing.assert_array_equal(batch["input_ids"], before["input_ids"])


def test_buffers_of_old_shapes_are_given_up(runner: DeviceRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.session.io_binding._SHAPES_KEPT", 3)
    for length in (4, 5, 6, 4, 7):
        runner.run(feeds(2, length))
    assert [shapes[0] for shapes in runner._kept] == [(2, 6), (2, 4), (2, 7)]


def test_callers_take_turns(runner: DeviceRunner) -> None:
    batches = [feeds(4, 6, seed) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for batch, vectors in zip(batches, pool.map(runner.run, batches), strict=True):
            np.testing.assert_allclose(vectors, runner._session.run(None, batch)[0], atol=1e-6)


def test_an_embedder_on_a_device_pads_to_buckets_and_gives_the_same(
    exported_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU, taken for a device with memory of its own."""
    expected = runtime.load(exported_text, provider="cpu").embed(TEXTS)
    device = replace(providers.PROVIDERS["cpu"], device="cuda", sequence_multiple=16, pads_batches=True)
    monkeypatch.setattr(session, "find_provider", lambda name: device)
    monkeypatch.setattr(session, "find_obstacle", lambda provider: None)
    monkeypatch.setattr(providers, "PROVIDERS", MappingProxyType({"cpu": device}))
    shapes = set()

    class Recorder(DeviceRunner):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._device = "cpu"

        def run(self, feeds: Any) -> Any:
            shapes.add(feeds["input_ids"].shape)
            return super().run(feeds)

    monkeypatch.setattr(session, "DeviceRunner", Recorder)
    np.testing.assert_allclose(runtime.load(exported_text, provider="cpu").embed(TEXTS), expected, atol=2e-6)
    assert all(rows.bit_count() == 1 and length % 16 == 0 for rows, length in shapes)
    assert shapes
