"""IO binding, tested on the CPU with the code that also serves GPUs."""

from __future__ import annotations

import threading
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
from runtime.inference.tower import LoadedTower
from runtime.session import providers, session
from runtime.session.io_binding import DeviceRunner
from runtime.session.open_graph import open_graph
from runtime.session.provider_options import CpuOptions, CudaOptions
from runtime.session.session import SessionOptions

TEXTS = [f"text {number} " * (1 + number % 9) for number in range(100)]


@pytest.fixture
def graph(exported_text: Path) -> onnxruntime.InferenceSession:
    return open_graph(exported_text / "text.onnx", providers.PROVIDERS["cpu"], CpuOptions(), 1)


@pytest.fixture
def runner(exported_text: Path, graph: onnxruntime.InferenceSession) -> DeviceRunner:
    """Return a runner that records, on the CPU, which ignores the numbers of the recordings."""
    return make_runner(exported_text, graph, CudaOptions(cuda_graphs=True))


def make_runner(folder: Path, graph: Any, options: CudaOptions) -> DeviceRunner:
    output = read_manifest(folder).towers["text"].output
    return DeviceRunner(graph, output, providers.PROVIDERS["cpu"], options, max_recorded_shapes=3)


def feeds(rows: int, length: int, seed: int = 0) -> dict[str, Array]:
    ids = np.random.default_rng(seed).integers(5, 300, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_buffers_are_reused_and_each_call_gets_its_own_vectors(
    runner: DeviceRunner, graph: onnxruntime.InferenceSession
) -> None:
    batches = [feeds(3, 8), feeds(3, 8, seed=1), feeds(2, 5), feeds(3, 8)]
    given = [{name: array.copy() for name, array in batch.items()} for batch in batches]
    vectors = [runner.run(batch) for batch in batches]
    assert len(runner.recorded_shapes) == 2
    for ours, batch in zip(vectors, given, strict=True):
        np.testing.assert_allclose(ours, graph.run(None, batch)[0], atol=1e-6)
    for batch, before in zip(batches, given, strict=True):
        np.testing.assert_array_equal(batch["input_ids"], before["input_ids"])


def test_further_shapes_run_without_a_recording(runner: DeviceRunner, graph: onnxruntime.InferenceSession) -> None:
    for length in (4, 5, 6, 7, 4, 8):
        batch = feeds(2, length)
        np.testing.assert_allclose(runner.run(batch), graph.run(None, batch)[0], atol=1e-6)
    assert [shapes[0] for shapes in runner.recorded_shapes] == [(2, 4), (2, 5), (2, 6)]


def test_buffers_take_an_eighth_of_the_memory_limit(exported_text: Path, graph: onnxruntime.InferenceSession) -> None:
    size = 2 * 2 * 8 * 8 + 4 * 2 * 24  # two inputs of int64, and the vectors
    options = CudaOptions(cuda_graphs=True, memory_limit_bytes=8 * size)
    assert options.settings(1)["gpu_mem_limit"] == str(7 * size)
    runner = make_runner(exported_text, graph, options)
    runner.run(feeds(2, 8))
    runner.run(feeds(1, 8))
    assert len(runner.recorded_shapes) == 1


def test_without_recording_all_memory_is_onnxruntimes(exported_text: Path, graph: onnxruntime.InferenceSession) -> None:
    options = CudaOptions(memory_limit_bytes=1000)
    assert options.settings(1)["gpu_mem_limit"] == "1000"
    runner = make_runner(exported_text, graph, options)
    np.testing.assert_allclose(runner.run(feeds(2, 8)), graph.run(None, feeds(2, 8))[0], atol=1e-6)
    assert not runner.recorded_shapes


def test_one_batch_is_copied_while_another_is_computed(exported_text: Path) -> None:
    """The runs meet at a barrier, which opens only if two are inside at once."""
    meeting, inside, most = threading.Barrier(2, timeout=30), 0, 0

    class Graph:
        def run(self, *arguments: object) -> list[object]:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            meeting.wait()
            inside -= 1
            return [None]

    runner = make_runner(exported_text, Graph(), CudaOptions())
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(runner.run, [feeds(1, 4)] * 6))
    assert most == 2


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
    device = replace(providers.PROVIDERS["cpu"], device="cuda", sequence_multiple=16, needs_few_shapes=True)
    monkeypatch.setattr(session, "find_provider", lambda name: device)
    monkeypatch.setattr("runtime.session.open_graph.find_provider_obstacle", lambda provider: None)
    monkeypatch.setattr(providers, "PROVIDERS", MappingProxyType({"cpu": device}))
    shapes = set()

    class Recorder(DeviceRunner):
        def __init__(self, graph: Any, output: Any, provider: Any, options: Any) -> None:
            super().__init__(graph, output, replace(provider, device="cpu"), options)

        def run(self, feeds: Any, run_options: Any = None) -> Any:
            shapes.add(feeds["input_ids"].shape)
            return super().run(feeds, run_options)

    monkeypatch.setattr(session, "DeviceRunner", Recorder)
    np.testing.assert_allclose(runtime.load(exported_text, provider="cpu").embed(TEXTS), expected, atol=2e-6)
    assert all(rows.bit_count() == 1 and length % 16 == 0 for rows, length in shapes)
    assert shapes


@pytest.mark.parametrize(("name", "expected"), [("cuda", [8, 2]), ("cpu", [8, 3])])
def test_images_on_a_gpu_have_few_sizes_of_batches(
    name: Any, expected: list[int], exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cuDNN looks for kernels whenever the size changes. The CPU is declared to be a GPU."""
    tower = LoadedTower(exported, read_manifest(exported).towers["image"], SessionOptions(provider="cpu"))
    monkeypatch.setattr(tower.session, "provider", replace(tower.session.provider, name=name))
    rows = tower.prepare([np.zeros((40, 40, 3), np.uint8)] * 11)
    assert [len(batch) for batch in tower.plan_batches(rows)][:2] == expected  # type: ignore[arg-type]
