from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from runtime.array_types import Float32Array
from runtime.inference.batching import BatchLimit
from runtime.server.dispatcher import BatchReport, Dispatcher, ShutDownError
from runtime.server.waiting_queue import BatchRunner
from tests.runtime.server.test_waiting_queue import tokens


class Graph:
    """A graph whose vectors are the lengths of the texts. It can be held, and fails for texts of 13 tokens."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.alone: list[list[int]] = []  # those that had all threads
        self.open, self.entered = threading.Event(), threading.Semaphore(0)
        self.open.set()

    def embed(self, rows: Sequence[Any], *, side_by_side: bool) -> Float32Array:
        lengths = [len(row.ids) for row in rows]
        self.batches.append(lengths)
        if not side_by_side:
            self.alone.append(lengths)
        self.entered.release()
        assert self.open.wait(20)
        if 13 in lengths:
            raise MemoryError("13")
        return np.array(lengths, dtype=np.float32)[:, None]


@pytest.fixture
def graph() -> Graph:
    return Graph()


@pytest.fixture
def runner(graph: Graph) -> BatchRunner:
    return BatchRunner(embed=graph.embed, limit=lambda: BatchLimit(budget=100, padding=16), dim=1)


@pytest.fixture
def reports() -> list[BatchReport]:
    return []


@pytest.fixture
def dispatcher(graph: Graph, reports: list[BatchReport]) -> Iterator[Dispatcher]:
    dispatcher = Dispatcher(1, on_batch=reports.append)
    yield dispatcher
    graph.open.set()
    dispatcher.close(20)
    assert not any(thread.is_alive() for thread in dispatcher._threads)


def test_vectors_are_in_the_order_of_the_rows(
    dispatcher: Dispatcher, runner: BatchRunner, reports: list[BatchReport]
) -> None:
    lengths = [5, 90, 6, 40, 5]
    job = dispatcher.submit(runner, [tokens(length) for length in lengths])
    assert job.future.result(20).ravel().tolist() == lengths
    dispatcher.close(20)
    assert sum(report.items for report in reports) == 5
    assert sum(report.tokens for report in reports) == sum(lengths)
    assert dispatcher.tokens_per_s > 0


def test_a_failing_item_fails_its_own_job_alone(
    dispatcher: Dispatcher, graph: Graph, runner: BatchRunner, caplog: pytest.LogCaptureFixture
) -> None:
    graph.open.clear()
    dispatcher.submit(runner, [tokens(1)])
    assert graph.entered.acquire(timeout=20)
    bad, good = dispatcher.submit(runner, [tokens(13), tokens(80)]), dispatcher.submit(runner, [tokens(13 - 1)])
    graph.open.set()
    assert good.future.result(20).tolist() == [[12]]
    with pytest.raises(MemoryError):
        bad.future.result(20)
    assert [12, 13] in [sorted(batch) for batch in graph.batches]
    assert dispatcher.submit(runner, [tokens(2)]).future.result(20).tolist() == [[2]]
    assert [80] not in graph.batches
    (logged,) = caplog.records
    assert vars(logged)["fields"] == {"items": 2, "reason": "MemoryError: 13"}


def test_items_of_a_cancelled_job_do_not_run(dispatcher: Dispatcher, graph: Graph, runner: BatchRunner) -> None:
    graph.open.clear()
    dispatcher.submit(runner, [tokens(1)])
    assert graph.entered.acquire(timeout=20)
    gone, kept = dispatcher.submit(runner, [tokens(50)] * 4), dispatcher.submit(runner, [tokens(60)])
    dispatcher.cancel(gone)
    assert len(dispatcher) == 1
    graph.open.set()
    kept.future.result(20)
    assert graph.batches == [[1], [60]]


def test_batches_run_side_by_side(graph: Graph, runner: BatchRunner) -> None:
    graph.open.clear()
    dispatcher = Dispatcher(3)
    jobs = [dispatcher.submit(runner, [tokens(10)]) for _ in range(3)]
    for _ in jobs:
        assert graph.entered.acquire(timeout=20)  # all of them before the first is done
    graph.open.set()
    dispatcher.close(20)
    assert all(job.future.done() for job in jobs)


def test_an_item_of_two_lanes_has_all_threads_when_nothing_else_runs_or_waits(
    graph: Graph, runner: BatchRunner
) -> None:
    done = threading.Semaphore(0)
    dispatcher = Dispatcher(2, on_batch=lambda report: done.release())
    graph.open.clear()
    dispatcher.submit(runner, [tokens(5), tokens(90)])  # one for each thread
    for _ in range(2):
        assert graph.entered.acquire(timeout=20)
    graph.open.set()
    for _ in range(2):
        assert done.acquire(timeout=20)
    graph.open.clear()
    dispatcher.submit(runner, [tokens(60)])
    assert graph.entered.acquire(timeout=20)
    dispatcher.submit(runner, [tokens(61)])  # beside the one that runs
    assert graph.entered.acquire(timeout=20)
    graph.open.set()
    dispatcher.close(20)
    assert sorted(graph.batches) == [[5], [60], [61], [90]]
    assert graph.alone == [[60]]


def test_up_to_half_of_the_lanes_share_all_threads(graph: Graph, runner: BatchRunner) -> None:
    graph.open.clear()
    dispatcher = Dispatcher(4)
    for length in (50, 60, 70):
        dispatcher.submit(runner, [tokens(length)])
        assert graph.entered.acquire(timeout=20)
    graph.open.set()
    dispatcher.close(20)
    assert graph.alone == [[50], [60]]


def test_the_oldest_item_waits_for_others_if_asked(graph: Graph, runner: BatchRunner) -> None:
    dispatcher = Dispatcher(1, max_wait_s=30)
    jobs = [dispatcher.submit(runner, [tokens(50)]) for _ in range(2)]  # together they fill a batch
    assert [job.future.result(20).item() for job in jobs] == [50, 50]
    assert graph.batches == [[50, 50]]
    late = dispatcher.submit(runner, [tokens(1)])
    assert not late.future.done()
    dispatcher.close(20)


@pytest.mark.parametrize("max_wait_s", [0, 30])
def test_an_urgent_item_waits_for_no_other_item(graph: Graph, runner: BatchRunner, max_wait_s: float) -> None:
    dispatcher, other = Dispatcher(1, max_wait_s=max_wait_s), replace(runner)
    graph.open.clear()
    dispatcher.submit(runner, [tokens(1)], urgent=True)
    assert graph.entered.acquire(timeout=20)
    dispatcher.submit(runner, [tokens(60)])
    urgent = dispatcher.submit(other, [tokens(2)], urgent=True)
    graph.open.set()
    assert urgent.future.result(20).tolist() == [[2]]
    assert graph.batches[:2] == [[1], [2]]
    dispatcher.close(20)


def test_closing_fails_what_waits_and_takes_nothing_more(
    dispatcher: Dispatcher, graph: Graph, runner: BatchRunner
) -> None:
    graph.open.clear()
    runs = dispatcher.submit(runner, [tokens(1)])
    assert graph.entered.acquire(timeout=20)
    waits = dispatcher.submit(runner, [tokens(2)] * 3)
    threading.Timer(0.05, graph.open.set).start()
    dispatcher.close(20)
    assert runs.future.result(0).tolist() == [[1]]
    with pytest.raises(ShutDownError):
        waits.future.result(0)
    with pytest.raises(ShutDownError):
        dispatcher.submit(runner, [tokens(1)])


@pytest.mark.parametrize("length", [1, 13], ids=["succeeds at last", "fails at last"])
def test_aborting_fails_what_runs_and_waits_for_nothing(
    dispatcher: Dispatcher, graph: Graph, runner: BatchRunner, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    graph.open.clear()
    jobs = [dispatcher.submit(runner, [tokens(length)])]
    assert graph.entered.acquire(timeout=20)
    jobs.append(dispatcher.submit(runner, [tokens(2)]))
    dispatcher.abort()
    assert not dispatcher.close(0)
    assert all(isinstance(job.future.exception(0), ShutDownError) for job in jobs)
    graph.open.set()
    assert dispatcher.close(20)
    assert not caplog.records


def test_the_latest_batch_tells_whether_a_graph_fails(
    dispatcher: Dispatcher, graph: Graph, runner: BatchRunner
) -> None:
    other = replace(runner)
    for length, failed in ((2, False), (13, True), (3, False)):
        dispatcher.submit(runner, [tokens(length)]).future.exception(20)
        assert dispatcher.has_failed(runner) is failed
        assert not dispatcher.has_failed(other)
