"""Test how the tasks of several calls are shared out among worker processes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import pytest
from PIL import Image
from tqdm import tqdm

import runtime
from runtime.artifact.manifest import TowerName
from runtime.artifact.reader import read_manifest
from runtime.inference.pipeline import Pipeline
from runtime.inference.tower import DEFAULT_BATCH_SIZES
from runtime.inference.workers import Workers, _WorkerProcess, divide_items
from runtime.session.session import SessionOptions
from tests.runtime.toy_artifact import write_artifact

pytestmark = pytest.mark.process
IMAGE = Image.new("RGB", (8, 8))
embed_window = _WorkerProcess.embed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("tasks") / "toy")


@pytest.fixture
def load(folder: Path) -> Iterator[Callable[[int], runtime.Embedder]]:
    models: list[runtime.Embedder] = []

    def load(workers: int) -> runtime.Embedder:
        models.append(runtime.load(folder, provider="cpu", threads=1, workers=workers))
        return models[-1]

    yield load
    for model in models:
        model.close()


def backend_of(model: runtime.Embedder) -> Workers:
    return cast("Workers", model.backend)


def kill(process: BaseProcess) -> None:
    os.kill(cast("int", process.pid), signal.SIGKILL)
    process.join()


def is_embedded(model: runtime.Embedder) -> bool:
    try:
        return bool(model.embed(["a"]).shape == (1, 4))
    except runtime.InferenceError as exc:
        assert "a worker process has died (exit code -9)" in str(exc)  # noqa: PT017  each call may fail or not
        return False


def test_calls_go_on_with_the_workers_that_live(load: Callable[[int], runtime.Embedder]) -> None:
    model = load(2)
    kill(backend_of(model).processes[0])
    assert sum(not is_embedded(model) for _ in range(8)) <= 1


def test_each_call_fails_when_no_worker_lives(load: Callable[[int], runtime.Embedder]) -> None:
    model = load(2)
    for process in backend_of(model).processes:
        kill(process)
    found: SimpleQueue[bool] = SimpleQueue()
    for _ in range(12):
        threading.Thread(target=lambda: found.put(is_embedded(model)), daemon=True).start()
    assert not any(found.get(timeout=20) for _ in range(12))


def test_a_call_starts_no_thread(load: Callable[[int], runtime.Embedder], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(1)
    started: list[object] = []
    monkeypatch.setattr(threading.Thread, "start", started.append)
    assert model.embed(["a"]).shape == (1, 4)
    assert not started


def test_texts_are_sent_in_one_message(
    load: Callable[[int], runtime.Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(1)
    pipe: Any = type(backend_of(model)._workers[0].pipe)
    send, sent = pipe._send_bytes, []

    def send_and_note(self: Any, data: Any) -> None:
        sent.append(len(data))
        send(self, data)

    monkeypatch.setattr(pipe, "_send_bytes", send_and_note)
    assert model.embed(["a", "b"] * 16).shape == (32, 4)
    assert len(sent) == 1


def test_an_image_that_cannot_be_prepared_leaves_the_worker_in_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr("runtime.preprocess.image.load_pixels", fail)
    with runtime.load(write_artifact(tmp_path / "toy", image=True), provider="cpu", workers=1) as model:
        found = model.embed(["a", Image.new("RGB", (4, 4)), "b"], on_error="skip")
        assert found.kept.tolist() == [0, 2]
        assert "item 1 (Image): it cannot be sent to a worker process (MemoryError" in str(found.failures[0])
        assert model.embed(["a"]).shape == (1, 4)


def test_a_model_that_is_deleted_ends_its_processes(folder: Path) -> None:
    model = runtime.load(folder, provider="cpu", workers=1)
    process = backend_of(model).processes[0]
    model.embed(["a"])
    del model
    process.join(20)
    assert process.exitcode == 0


def test_windows_of_an_abandoned_stream_are_not_embedded(
    load: Callable[[int], runtime.Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four windows are sent out before the first part: one is embedded, two occupy the workers, and one waits."""
    model, gate, embedded = load(2), threading.Event(), []

    def embed_behind_gate(worker: _WorkerProcess, items: list[str], *arguments: Any) -> Any:
        embedded.append(items[0])
        if items[0] == "b":
            gate.wait()
        return embed_window(worker, items, *arguments)

    monkeypatch.setattr(_WorkerProcess, "embed", embed_behind_gate)
    size = DEFAULT_BATCH_SIZES["text", "cpu"].window
    stream = model.embed_stream(itertools.chain(["a"] * size, itertools.repeat("b")))
    next(stream)
    stream.close()
    gate.set()
    for _ in range(4):  # each waits in the queue behind the last window of the stream
        model.embed(["c"])
    assert embedded.count("b") <= 2


@pytest.mark.parametrize(
    ("first", "options", "windows"),
    [
        ("a", {}, [130, 32, 32, 32, 32, 2]),
        ("a", {"tower": "text"}, [130, 130]),
        (IMAGE, {}, [26, 26, 26, 26, 26, 32, 32, 32, 32, 2]),
        (IMAGE, {"batch_size": 30}, [44, 44, 42, 60, 60, 10]),
    ],
    ids=["strings", "asked", "mixed", "batch_size"],
)
def test_windows_are_those_of_the_towers_in_use_and_of_the_size_of_batch(
    first: Any, options: dict[str, Any], windows: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def embed_and_note(worker: _WorkerProcess, items: list[str], *arguments: Any) -> Any:
        sizes.append(len(items))
        return embed_window(worker, items, *arguments)

    monkeypatch.setattr(_WorkerProcess, "embed", embed_and_note)
    with runtime.load(write_artifact(tmp_path / "toy", image=True), provider="cpu", threads=1, workers=1) as model:
        mixed = [first, *["a"] * 129]
        for items in (mixed, tqdm((item for item in mixed), disable=True)):
            assert model.embed(items, **options).shape == (130, 4)
    assert sizes == windows


@pytest.mark.parametrize(
    ("kind", "count", "workers", "size"),
    [
        ("text", 50, 4, 13),
        ("text", 20, 8, 8),
        ("text", 4096, 4, 1024),
        ("text", 5000, 4, 625),
        ("image", 4, 8, 1),
        ("image", 300, 8, 19),
        ("image", 0, 2, 1),
    ],
)
def test_all_workers_get_about_as_many_items(kind: TowerName, count: int, workers: int, size: int) -> None:
    assert divide_items(count, workers, DEFAULT_BATCH_SIZES[kind, "cpu"]) == size


def refuse_the_second(pipeline: Pipeline) -> None:
    if pipeline.info.provider_reason == "the second":
        raise runtime.ProviderError("it misses the golden vectors")


def test_a_worker_that_fails_its_check_ends_all(folder: Path) -> None:
    towers = read_manifest(folder).towers
    one, other = (SessionOptions(provider="cpu", reason=reason) for reason in ("the first", "the second"))
    Workers(folder, towers, 4, [one], refuse_the_second).close()
    before = multiprocessing.active_children()
    with pytest.raises(runtime.ProviderError, match="it misses the golden vectors"):
        Workers(folder, towers, 4, [one, other], refuse_the_second)
    assert multiprocessing.active_children() == before


class Text(str):
    """A string that can be referenced weakly."""


def test_an_error_of_a_worker_holds_nothing_when_it_is_gone(
    load: Callable[[int], runtime.Embedder], wait_until_freed: Callable[..., None]
) -> None:
    model = load(1)
    items: list[Any] = [Text("a"), None]
    freed = weakref.ref(items[0])
    with pytest.raises(runtime.ItemError):
        model.embed(items)
    items.clear()
    wait_until_freed([freed])


def test_a_script_without_a_main_guard_is_told_so(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import runtime\nruntime.load({str(folder)!r}, provider='cpu', workers=1)\n")
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 1
    assert "ended with an error, printed above; a script that loads with workers needs `if __name__" in found.stderr
