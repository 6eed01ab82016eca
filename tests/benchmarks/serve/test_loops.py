"""Test the loops under virtual time, on servers whose delays are known."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from benchmarks.serve.loops import LoopOptions, LoopResult, arrivals, run_loop
from tests.benchmarks.serve.virtual_time import now, run

REQUESTS = [b"a", b"b", b"c"]
STALL = (3.0, 4.0)  # seconds on the server's clock, which starts with the warm-up


class FakeServer:
    """Answer after ``delay_s`` seconds, but not before the end of a stall."""

    def __init__(self, delay_s: float, stall: tuple[float, float] = (0.0, 0.0)) -> None:
        self.delay_s = delay_s
        self.stall = stall
        self.received: list[bytes] = []
        self.closed = 0

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        self.received.append(request)
        begin, end = self.stall
        await asyncio.sleep(self.delay_s + (end - now() if begin <= now() < end else 0.0))
        return 200, b"vectors"

    def close(self) -> None:
        self.closed += 1


def measure(server: FakeServer, options: LoopOptions, **calls: Callable[[], None]) -> LoopResult:
    async def main() -> LoopResult:
        return await run_loop(options, REQUESTS, lambda: server, clock=now, **calls)

    return run(main())


def options(**changes: float | int | None) -> LoopOptions:
    return LoopOptions(**{"seconds": 10.0, "warm_up_s": 1.0, "timeout_s": 30.0, **changes})  # type: ignore[arg-type]


def latencies(result: LoopResult) -> list[float]:
    return [sample.latency_s for sample in result.samples]


def test_clients_of_a_closed_loop_wait_for_their_answers() -> None:
    server = FakeServer(0.1)
    result = measure(server, options(clients=2, seconds=1.0, warm_up_s=0.25))
    assert (result.completed, len(result.samples)) == (20, 22)
    assert latencies(result) == pytest.approx([0.1] * 22)
    assert len(server.received) == 26  # with 4 in the warm-up, and 2 that end after the measurement
    assert server.received[:4] == [b"a", b"b", b"c", b"a"]
    assert server.closed == 2


@pytest.mark.parametrize(("delay_s", "outcome"), [(20.0, "ok"), (60.0, "timeout")])
def test_answers_and_failures_after_the_end_of_a_closed_loop_count(delay_s: float, outcome: str) -> None:
    result = measure(FakeServer(delay_s), options(clients=3, seconds=5.0))
    assert Counter(sample.outcome for sample in result.samples) == {outcome: 3}
    assert latencies(result) == pytest.approx([min(delay_s, 30.0)] * 3)
    assert result.completed == 0


def test_requests_of_an_open_loop_are_sent_when_they_are_due() -> None:
    server = FakeServer(0.1)
    result = measure(server, options(rate=50.0))
    assert len(result.samples) == 500
    assert len(server.received) == 550  # with the warm-up
    assert latencies(result) == pytest.approx([0.1] * 500)
    assert [sample.due_s for sample in result.samples] == sorted(
        due for due in arrivals(options(rate=50.0)) if due >= 0
    )
    assert all(sample.begun_s == pytest.approx(sample.due_s) for sample in result.samples)


def test_arrivals_are_random_but_the_same_for_a_seed() -> None:
    times = arrivals(options(rate=200.0))
    assert len(times) == 2200
    assert sum(due < 0 for due in times) == 200
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.01)
    assert gaps.std() == pytest.approx(1 / 200, rel=0.1)  # as of a Poisson process
    assert times == arrivals(options(rate=200.0))
    assert times != arrivals(options(rate=200.0, seed=1))


def test_a_stall_delays_all_requests_that_were_due_in_it() -> None:
    stalled = measure(FakeServer(0.01, STALL), options(rate=100.0))
    begin, end = (second - 1.0 for second in STALL)  # on the clock of the measurement
    for sample in stalled.samples:
        wait = end - sample.due_s if begin <= sample.due_s < end else 0.0
        assert sample.latency_s == pytest.approx(wait + 0.01)
    waiting = sum(begin <= sample.due_s < end for sample in stalled.samples)
    assert 80 < waiting < 120
    assert np.percentile(latencies(stalled), 95) > 0.3
    assert np.percentile(latencies(stalled), 99) > 0.7


def test_a_closed_loop_omits_the_requests_that_a_stall_holds_back() -> None:
    """The reason why the latency of an open loop counts from the due time: here p99 shows nothing of the stall."""
    result = measure(FakeServer(0.01, STALL), options(clients=1))
    assert sum(latency > 0.02 for latency in latencies(result)) == 1
    assert np.percentile(latencies(result), 99) == pytest.approx(0.01)


def test_the_wait_for_a_free_connection_counts() -> None:
    few = measure(FakeServer(0.01, STALL), options(rate=50.0, most_connections=1))
    many = measure(FakeServer(0.01, STALL), options(rate=50.0))
    assert max(latencies(few)) > max(latencies(many))
    assert sum(latency > 0.5 for latency in latencies(few)) >= sum(latency > 0.5 for latency in latencies(many)) > 10


def test_requests_that_nobody_answers_time_out_from_the_time_at_which_they_were_due() -> None:
    result = measure(FakeServer(0.01, (1.0, 1000.0)), options(rate=20.0, timeout_s=2.0, most_connections=5))
    assert Counter(sample.outcome for sample in result.samples) == {"timeout": 200}
    assert result.completed == 0
    assert latencies(result) == pytest.approx([2.0] * 200)


def test_an_overloaded_server_answers_late_and_the_backlog_does_not_count_as_completed() -> None:
    class OneAtATime(FakeServer):
        busy_until = 0.0

        async def ask(self, request: bytes) -> tuple[int, bytes]:
            self.busy_until = max(self.busy_until, now()) + self.delay_s
            await asyncio.sleep(self.busy_until - now())
            return 200, b""

    result = measure(OneAtATime(0.1), options(rate=20.0, warm_up_s=0.0))
    assert len(result.samples) == 200
    assert result.completed == pytest.approx(100, abs=2)
    assert max(latencies(result)) == pytest.approx(10.0, abs=1.0)


class BadServer(FakeServer):
    """Answer in turn with a success and each kind of failure."""

    def __init__(self) -> None:
        super().__init__(0.01)
        self.kinds: Iterator[int | Exception] = itertools.cycle(
            [200, 429, 503, 500, 400, ConnectionResetError(), EOFError(), ValueError()]
        )

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        await asyncio.sleep(self.delay_s)
        kind = next(self.kinds)
        if isinstance(kind, Exception):
            raise kind
        return kind, b""


@pytest.mark.parametrize("load", [{"rate": 80.0}, {"clients": 1}], ids=["open", "closed"])
def test_failures_are_counted_apart(load: dict[str, float]) -> None:
    result = measure(BadServer(), options(warm_up_s=0.0, **load))
    found = Counter((sample.outcome, sample.reason) for sample in result.samples)
    assert set(found) == {
        ("ok", ""),
        ("refused", "status 429"),
        ("refused", "status 503"),
        ("error", "status 500"),
        ("error", "status 400"),
        ("error", "ConnectionResetError"),
        ("error", "EOFError"),
        ("error", "ValueError"),
    }
    assert max(found.values()) - min(found.values()) <= 1
    assert result.completed == found["ok", ""]


@pytest.mark.parametrize("load", [{"rate": 10.0}, {"clients": 1}], ids=["open", "closed"])
def test_meters_run_from_the_end_of_the_warm_up_to_the_end_of_the_measurement(load: dict[str, float]) -> None:
    times: list[float] = []
    measure(
        FakeServer(5.0),
        options(warm_up_s=1.5, **load),
        on_start=lambda: times.append(now()),
        on_end=lambda: times.append(now()),
    )
    assert times == pytest.approx([1.5, 11.5])


def test_bodies_beyond_the_limit_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.serve.loops._MOST_KEPT_BYTES", 5 * len(b"vectors"))
    result = measure(FakeServer(0.1), options(clients=1, seconds=0.95, warm_up_s=0.0))
    assert [sample.body for sample in result.samples] == [b"vectors"] * 5 + [None] * 5
