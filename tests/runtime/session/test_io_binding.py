"""Recording of CUDA graphs and batches on a GPU, tested on the CPU with the code that also serves GPUs."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest

import runtime
from runtime.array_types import Array
from runtime.artifact.reader import read_manifest
from runtime.inference.pipeline import Pipeline
from runtime.inference.tower import LoadedTower
from runtime.session import providers, session
from runtime.session.cancellation import CancellationToken
from runtime.session.io_binding import GraphRecorder
from runtime.session.open_graph import open_graph
from runtime.session.provider_options import CpuOptions, CudaOptions
from runtime.session.session import SessionOptions

TEXTS = [f"text {number} " * (1 + number % 9) for number in range(100)]


@pytest.fixture
def graph(exported_text: Path) -> onnxruntime.InferenceSession:
    return open_graph(exported_text / "text.onnx", providers.PROVIDERS["cpu"], CpuOptions(), 1)


@pytest.fixture
def recorder(exported_text: Path, graph: onnxruntime.InferenceSession) -> GraphRecorder:
    """Return a recorder that records, on the CPU, which ignores the numbers of the recordings."""
    return make_recorder(exported_text, graph, CudaOptions(cuda_graphs=True))


def make_recorder(folder: Path, graph: Any, options: CudaOptions) -> GraphRecorder:
    output = read_manifest(folder).towers["text"].output
    return GraphRecorder(graph, output, options, device="cpu", max_recorded_shapes=3)


def feeds(rows: int, length: int, seed: int = 0) -> dict[str, Array]:
    ids = np.random.default_rng(seed).integers(5, 300, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_buffers_are_reused_and_each_call_gets_its_own_vectors(
    recorder: GraphRecorder, graph: onnxruntime.InferenceSession
) -> None:
    batches = [feeds(3, 8), feeds(3, 8, seed=1), feeds(2, 5), feeds(3, 8)]
    given = [{name: array.copy() for name, array in batch.items()} for batch in batches]
    vectors = [recorder.run(batch) for batch in batches]
    assert len(recorder.recorded_shapes) == 2
    for ours, batch in zip(vectors, given, strict=True):
        np.testing.assert_allclose(ours, graph.run(None, batch)[0], atol=1e-6)
    for batch, before in zip(batches, given, strict=True):
        np.testing.assert_array_equal(batch["input_ids"], before["input_ids"])


def test_further_shapes_run_without_a_recording(recorder: GraphRecorder, graph: onnxruntime.InferenceSession) -> None:
    for length in (4, 5, 6, 7, 4, 8):
        batch = feeds(2, length)
        np.testing.assert_allclose(recorder.run(batch), graph.run(None, batch)[0], atol=1e-6)
    assert [shapes[0] for shapes in recorder.recorded_shapes] == [(2, 4), (2, 5), (2, 6)]


def test_buffers_take_an_eighth_of_the_memory_limit(exported_text: Path, graph: onnxruntime.InferenceSession) -> None:
    size = 2 * 2 * 8 * 8 + 4 * 2 * 24  # two inputs of int64, and the vectors
    options = CudaOptions(cuda_graphs=True, memory_limit_bytes=8 * size)
    assert options.settings(1)["gpu_mem_limit"] == str(7 * size)
    assert CudaOptions(memory_limit_bytes=1000).settings(1)["gpu_mem_limit"] == "1000", "without CUDA graphs"
    recorder = make_recorder(exported_text, graph, options)
    recorder.run(feeds(2, 8))
    recorder.run(feeds(1, 8))
    assert len(recorder.recorded_shapes) == 1


def test_callers_take_turns(recorder: GraphRecorder, graph: onnxruntime.InferenceSession) -> None:
    batches = [feeds(4, 6, seed) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for batch, vectors in zip(batches, pool.map(recorder.run, batches), strict=True):
            np.testing.assert_allclose(vectors, graph.run(None, batch)[0], atol=1e-6)


@pytest.fixture
def on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare the CPU to be a device with its own memory."""
    device = replace(providers.PROVIDERS["cpu"], device="cuda", sequence_multiple=16, needs_few_shapes=True)
    monkeypatch.setattr(session, "find_provider", lambda name: device)
    monkeypatch.setattr("runtime.session.open_graph.find_provider_obstacle", lambda provider: None)
    monkeypatch.setattr(providers, "PROVIDERS", MappingProxyType({"cpu": device}))


def test_an_embedder_on_a_device_pads_to_buckets_and_gives_the_same_vectors(
    exported_text: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = runtime.load(exported_text, provider="cpu").embed(TEXTS)
    request.getfixturevalue("on_a_device")
    shapes, run = set(), session.Session.run

    def note(self: session.Session, batch: Any, *arguments: Any, **options: Any) -> Any:
        shapes.add(batch["input_ids"].shape)
        return run(self, batch, *arguments, **options)

    monkeypatch.setattr(session.Session, "run", note)
    model = runtime.load(exported_text, provider="cpu")
    np.testing.assert_allclose(model.embed(TEXTS), expected, atol=2e-6)
    assert all(rows.bit_count() == 1 and length % 16 == 0 for rows, length in shapes)
    assert shapes
    held = cast("Pipeline", model.backend).towers["text"].session._sessions._sessions
    assert len(held) == 1, "batches side by side share it"


def test_on_a_device_one_batch_is_copied_while_another_is_computed(
    exported_text: Path, on_a_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    loaded = cast("Pipeline", runtime.load(exported_text, provider="cpu").backend).towers["text"].session
    monkeypatch.setattr(loaded._sessions, "take", lambda *_, **__: Graph())
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(loaded.run, [feeds(1, 4)] * 6))
    assert most == 2


@pytest.mark.parametrize(("name", "expected"), [("cuda", [8, 2]), ("cpu", [8, 3])])
def test_images_on_a_gpu_have_few_sizes_of_batches(
    name: Any, expected: list[int], exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cuDNN looks for kernels whenever the size changes. The CPU is declared to be a GPU."""
    tower = LoadedTower(exported, read_manifest(exported).towers["image"], SessionOptions(provider="cpu"))
    monkeypatch.setattr(tower.session, "provider", replace(tower.session.provider, name=name))
    rows = tower.prepare([np.zeros((40, 40, 3), np.uint8)] * 11)
    assert [len(batch) for batch in tower.plan_batches(rows)][:2] == expected  # type: ignore[arg-type]


def test_a_cancelled_call_replays_no_graph(
    exported_text: Path, recorder: GraphRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = cast("Pipeline", runtime.load(exported_text, provider="cpu").backend).towers["text"].session
    monkeypatch.setattr(loaded, "_recorder", recorder)
    cancellation = CancellationToken()
    assert loaded.run(feeds(3, 8), cancellation).shape == (3, 24)
    cancellation.cancel()
    with pytest.raises(runtime.InferenceError, match="the run was cancelled"):
        loaded.run(feeds(2, 5), cancellation)
    assert len(recorder.recorded_shapes) == 1
