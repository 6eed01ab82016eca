"""Batches run side by side, each on its share of the threads; a batch alone takes all threads."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import runtime
from runtime.inference.batching import schedule_batches
from runtime.inference.pipeline import Pipeline
from runtime.inference.tower import DEFAULT_BATCH_SIZES
from runtime.session.graph_sessions import GraphSessions
from runtime.session.session import Session
from tests.runtime.toy_artifact import write_artifact

TEXTS = [f"{'a b c ' * (number % 7)}{number}" for number in range(40)]
needs_two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("concurrent") / "toy")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each run of a session was side by side with others."""
    seen: list[bool] = []
    run = Session.run

    def record(self: Session, *args: Any, side_by_side: bool = False, **options: Any) -> Any:
        seen.append(side_by_side)
        return run(self, *args, side_by_side=side_by_side, **options)

    monkeypatch.setattr(Session, "run", record)
    return seen


@needs_two_cores
@pytest.mark.parametrize("kind", [list, iter], ids=["list", "iterator"])
def test_vectors_and_their_order_are_those_of_one_batch_after_another(
    kind: Callable[[list[str]], Iterable[str]], folder: Path, runs: list[bool]
) -> None:
    serial = runtime.load(folder, provider="cpu", threads=2, concurrent_batches=1)
    expected = serial.embed(TEXTS * 10, batch_size=3)
    assert not any(runs)
    model = runtime.load(folder, provider="cpu", threads=2)
    assert (serial.concurrent_batches, model.concurrent_batches) == (1, 2)
    np.testing.assert_array_equal(model.embed(kind(TEXTS * 10), batch_size=3), expected)
    assert 130 <= sum(runs) <= 134  # of 134 batches; the last ones fit no two lanes
    np.testing.assert_array_equal(model.embed(kind(TEXTS), batch_size=3), expected[:40])


@needs_two_cores
def test_two_batches_run_at_once_and_one_alone_takes_all_threads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, meeting, alone = runtime.load(folder, provider="cpu", threads=2), threading.Barrier(2), []
    run = Session.run

    def meet(self: Session, *args: Any, side_by_side: bool = False, **options: Any) -> Any:
        if side_by_side:
            meeting.wait(20)  # broken unless two runs are here at once
        else:
            alone.append(len(args[0]["input_ids"]))
        return run(self, *args, side_by_side=side_by_side, **options)

    monkeypatch.setattr(Session, "run", meet)
    assert len(model.embed(["of one length"] * 9, batch_size=2)) == 9
    assert alone == [1], "four batches side by side, and the last one alone"
    assert len(model.embed(TEXTS[:2], batch_size=2)) == 2
    assert alone == [1, 2]
    assert len(model.embed([*["a"] * 6, *["a long text " * 40] * 6], batch_size=6)) == 12
    assert alone == [1, 2, 6, 6], "a batch of short texts leaves its lane idle too soon"


@needs_two_cores
def test_an_error_of_one_batch_ends_the_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise runtime.InferenceError("no memory")

    model = runtime.load(folder, provider="cpu", threads=2)
    monkeypatch.setattr(Session, "run", fail)
    with pytest.raises(runtime.InferenceError, match="no memory"):
        model.embed(TEXTS * 10, batch_size=2)


@pytest.mark.parametrize(("batches", "alone"), [(0, 0), (1, 1), (2, 2), (3, 0), (4, 0), (5, 1), (6, 2), (7, 0), (8, 0)])
def test_few_batches_that_are_left_over_of_four_lanes_run_with_all_threads(batches: int, alone: int) -> None:
    assert batches - schedule_batches([1.0] * batches, 4).side_by_side == alone


@pytest.mark.parametrize(
    ("costs", "lanes", "count"),
    [
        ([9, 1], 2, 0),
        ([9, 8, 7, 1], 2, 2),
        ([9, 8, 7, 6], 2, 4),
        ([8, 8, 8], 2, 2),
        ([9, 1, 1, 1], 4, 0),
        ([5, 5], 1, 2),
    ],
)
def test_batches_run_side_by_side_unless_one_would_leave_the_other_lanes_idle(
    costs: list[float], lanes: int, count: int
) -> None:
    assert schedule_batches(costs, lanes).side_by_side == count


@pytest.mark.parametrize(
    ("lanes", "count", "sizes"),
    [(8, 16, [2] * 8), (8, 64, [4] * 16), (8, 4, [4]), (2, 16, [8, 8])],
    ids=["call", "stream", "saves little", "few lanes"],
)
def test_a_call_is_divided_among_many_threads(
    exported: Path, lanes: int, count: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, run, found = runtime.load(exported, provider="cpu"), Session.run, list[int]()
    pipeline = cast("Pipeline", model.backend)
    pipeline.info = replace(pipeline.info, concurrent_batches=lanes)  # as on a machine with so many cores

    def note(self: Session, feeds: Any, *args: Any, **options: Any) -> Any:
        found.append(len(next(iter(feeds.values()))))
        return run(self, feeds, *args, **options)

    monkeypatch.setattr(Session, "run", note)
    model.embed([np.zeros((8, 8, 3), np.uint8)] * count)
    assert sorted(found) == sizes


@needs_two_cores
@pytest.mark.parametrize(
    ("options", "batches"),
    [({}, 2), ({"concurrent_batches": 1}, 1), ({"provider_options": runtime.CpuOptions(memory_limit_bytes=10**9)}, 1)],
    ids=["default", "one", "limited memory"],
)
def test_a_limit_of_memory_runs_one_batch_after_another(folder: Path, options: dict[str, Any], batches: int) -> None:
    assert runtime.load(folder, provider="cpu", threads=2, **options).concurrent_batches == batches


@needs_two_cores
def test_several_batches_side_by_side_and_a_limit_of_memory_exclude_each_other(folder: Path) -> None:
    options = runtime.CpuOptions(memory_limit_bytes=10**9)
    assert runtime.load(folder, provider_options=options, threads=2, concurrent_batches=1).concurrent_batches == 1
    with pytest.raises(runtime.UsageError, match=r"concurrent_batches is 2, but .* memory_limit_bytes; leave one"):
        runtime.load(folder, provider_options=options, threads=2, concurrent_batches=2)


@pytest.mark.parametrize("number", [0, 3, 1.5, True])
def test_a_number_that_the_threads_cannot_share_is_refused(number: Any, folder: Path) -> None:
    with pytest.raises(runtime.UsageError, match=r"concurrent_batches is .*, it must be from 1 to"):
        runtime.load(folder, provider="cpu", threads=1, concurrent_batches=number)


class Weights:
    """Stands for a session of ONNX Runtime, which holds the weights."""

    def __init__(self, threads: int) -> None:
        self.threads = threads


def sessions(*, keeps_both: bool) -> GraphSessions:
    first: Any = Weights(4)
    return GraphSessions(first, threads=4, share=1, keeps_both=keeps_both)


def session_of(model: runtime.Embedder) -> Session:
    return cast("Pipeline", model.backend).towers["text"].session


def held(graph: GraphSessions) -> list[int]:
    return sorted(graph._sessions)


@pytest.mark.parametrize("keeps_both", [True, False])
def test_a_process_that_runs_batches_side_by_side_only_holds_the_weights_once(keeps_both: bool) -> None:
    graph = sessions(keeps_both=keeps_both)
    session: Any = graph.take(Weights, side_by_side=True)
    assert (session.threads, held(graph)) == (1, [1])
    assert graph.take(Weights, side_by_side=True) is session


def test_a_process_of_both_kinds_holds_small_weights_twice() -> None:
    graph = sessions(keeps_both=True)
    taken: list[Any] = [graph.take(Weights, side_by_side=side) for side in (False, True, False)]
    assert ([each.threads for each in taken], held(graph)) == ([4, 1, 4], [1, 4])


@pytest.mark.parametrize("has_run", [False, True])
def test_a_server_frees_the_session_of_loading(folder: Path, has_run: bool) -> None:
    model = runtime.load(folder, provider="cpu")
    if has_run:  # as with reduced precision, which loading compares with the golden vectors
        model.embed(["a"])
    session = session_of(model)
    (first,) = map(weakref.ref, session._sessions._sessions.values())
    session.yield_cores()
    assert first() is None
    assert model.embed(["a"]).shape == (1, 4)


def test_a_model_that_is_deleted_is_freed_at_once(folder: Path, wait_until_freed: Callable[..., None]) -> None:
    model = runtime.load(folder, provider="cpu")
    model.embed(TEXTS, batch_size=3)
    model.embed(TEXTS[:1])
    freed = [*map(weakref.ref, session_of(model)._sessions._sessions.values())]
    del model
    wait_until_freed(freed)


class Text(str):
    """A string that can be referenced weakly."""


@pytest.mark.parametrize("count", [2, 40, 400], ids=["one batch", "side by side", "stream"])
@pytest.mark.parametrize("kind", ["item", "inference"])
def test_an_error_holds_nothing_when_it_is_gone(
    kind: str, count: int, folder: Path, monkeypatch: pytest.MonkeyPatch, wait_until_freed: Callable[..., None]
) -> None:
    freed: list[weakref.ref[Any]] = []

    def fail(self: Session, feeds: Any, *_: Any, **__: Any) -> Any:
        freed.extend(map(weakref.ref, feeds.values()))
        raise runtime.InferenceError("no memory")

    model = runtime.load(folder, provider="cpu")
    items: list[Any] = [Text("a") for _ in range(count)]
    freed += map(weakref.ref, items)
    if kind == "item":
        items.append(None)
    else:
        monkeypatch.setattr(Session, "run", fail)
    with pytest.raises(runtime.ItemError if kind == "item" else runtime.InferenceError):
        model.embed(items, batch_size=2)
    items.clear()
    wait_until_freed(freed)


def test_the_errors_of_items_that_were_left_out_hold_no_items(
    folder: Path, wait_until_freed: Callable[..., None]
) -> None:
    items: list[Any] = [Text("a"), None]
    freed = weakref.ref(items[0])
    found = runtime.load(folder, provider="cpu").embed(items, on_error="skip")
    items.clear()
    wait_until_freed([freed])
    assert len(found.failures) == 1


@needs_two_cores
def test_a_stream_of_several_windows_holds_the_weights_once(folder: Path) -> None:
    model = runtime.load(folder, provider="cpu", threads=2)
    size = DEFAULT_BATCH_SIZES["text", "cpu"].window
    model.embed(["a"] * (size + 1), batch_size=size // 2)
    assert list(session_of(model)._sessions._sessions) == [1]


@pytest.mark.parametrize("first", [True, False])
def test_large_weights_are_held_once_whatever_comes_first(first: bool) -> None:
    graph = sessions(keeps_both=False)
    session = graph.take(Weights, side_by_side=first)
    assert graph.take(Weights, side_by_side=not first) is session
    assert len(held(graph)) == 1
