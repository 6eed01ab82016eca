"""Contenders take turns until all times are precise, and disturbed turns are repeated. Nothing here is timed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import pytest

from benchmarks.measure import rounds
from benchmarks.measure.cpu_time import CpuTime
from benchmarks.measure.rounds import (
    Participant,
    RetryBudget,
    leave_out_disturbed,
    measure_undisturbed,
    run_rounds,
)
from benchmarks.measure.worker_client import Worker
from runtime.errors import EmbeddingBackbonesError
from tests.benchmarks.measure.toys import SETUP, TIMING


class Host:
    """Host that takes the given shares of CPU time from one piece of work after another."""

    def __init__(self, shares: Iterable[float]) -> None:
        self._shares, self.time = iter(shares), CpuTime(7, 100)
        self.turns: list[Worker] = []

    def work(self) -> float:
        """Use a second of CPU time, and return the share that the host takes of it."""
        share = next(self._shares)
        self.time = CpuTime(self.time.steal + round(1000 * share), self.time.wanted + 1000)
        return share


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the rest between turns by a list of its seconds."""
    slept: list[float] = []
    monkeypatch.setattr("benchmarks.measure.rounds.time.sleep", slept.append)
    return slept


@pytest.fixture
def host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(getattr(request, "param", itertools.repeat(0.0)))
    monkeypatch.setattr(rounds, "read_cpu_time", lambda: host.time)
    return host


class FakeWorker(Worker):
    """Worker without a process, whose turns have one call each."""

    def __init__(self, seconds: Iterable[float], host: Host) -> None:
        self._seconds, self._host = iter(seconds), host

    def take_turn(self) -> tuple[tuple[float, ...], int]:
        """Return the next of the given seconds, made longer by the host."""
        self._host.turns.append(self)
        second = next(self._seconds, None)
        if second is None:
            raise EmbeddingBackbonesError("out of memory")
        return (second * (1 + self._host.work()),), 1


def participant(seconds: Iterable[float], host: Host) -> Participant:
    return Participant(setup=SETUP, stage="end_to_end", worker=FakeWorker(seconds, host), start_s=1, first_s=1)


@pytest.fixture
def seconds_of_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """Count seconds for the time limit, and skip the reference workload."""
    monkeypatch.setattr(rounds, "time_reference_workload", lambda: 0.01)
    return itertools.count(0.0, 1.0)


def test_rounds_end_when_all_times_are_precise_or_time_is_up(
    host: Host, seconds_of_clock: Iterator[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = rounds.TimingOptions(threads=1, min_rounds=5, seconds=10.0, patience=0, confidence=0.95, half_width=0.05)

    def count_rounds(*groups: Iterable[float]) -> int:
        participants = [participant(seconds, host) for seconds in groups]
        reference_times = run_rounds(
            participants, options, lambda _, exc: pytest.fail(str(exc)), clock=lambda: next(seconds_of_clock)
        )
        assert [len(each.rounds) for each in participants] == [len(reference_times)] * len(groups)
        return len(reference_times)

    steady, noisy = itertools.repeat(1.0), itertools.cycle([1.0, 2.0])
    assert [count_rounds(steady), count_rounds(noisy), count_rounds(steady, noisy)] == [5, 11, 21]
    first, second = host.turns[-2:]
    assert host.turns[-42:-38] == [first, second, second, first]
    budget = RetryBudget(0)
    budget.spent = 5.0
    monkeypatch.setattr(rounds, "RetryBudget", lambda seconds: budget)
    assert count_rounds(noisy) == 16, "repeated turns take no time from the others"
    monkeypatch.setattr(rounds, "_MAX_ROUNDS", 4)
    assert count_rounds(noisy) == 4


def test_the_time_that_must_be_precise_is_the_mean_end_to_end(host: Host) -> None:
    each = participant([], host)
    each.rounds = [(1.0, 1.0, 1.0), (1.0, 1.0, 4.0)] * 5
    assert not each.is_precise(TIMING)
    each.stage = "graph"
    assert each.is_precise(TIMING)


def test_a_contender_that_fails_leaves_the_rounds(host: Host, seconds_of_clock: Iterator[float]) -> None:
    failures: list[str] = []
    participants = [participant([1.0, 1.0], host), participant(itertools.repeat(1.0), host)]
    steady = participants[1]
    reference_times = run_rounds(
        participants, TIMING, lambda _, exc: failures.append(str(exc)), clock=lambda: next(seconds_of_clock)
    )
    assert failures == ["out of memory"]
    assert participants == [steady]
    assert len(reference_times) == len(steady.rounds) == 3


@pytest.mark.parametrize("host", [(0.3, 0.02, 0.5)], indirect=True)
def test_a_turn_that_the_host_disturbed_is_repeated_while_the_budget_lasts(host: Host) -> None:
    disturbed = participant(itertools.repeat(0.1), host)
    disturbed.take_turn(RetryBudget(60))
    disturbed.take_turn(RetryBudget(0))
    assert disturbed.rounds == [pytest.approx((0.102,)), pytest.approx((0.15,))]
    assert disturbed.steal == [0.02, 0.5]
    assert disturbed.left_out == [pytest.approx((0.13,))]


@pytest.mark.parametrize("host", [(0.3, 0.02, 0.5)], indirect=True)
def test_a_reference_workload_that_the_host_disturbed_is_repeated(host: Host) -> None:
    lengths = iter([3.0, 2.0, 1.0])

    def measure() -> float:
        host.work()
        return next(lengths)

    assert measure_undisturbed(measure, RetryBudget(60)) == (2, 0.02, [3])
    assert measure_undisturbed(measure, RetryBudget(0)) == (1, 0.5, [])


def test_no_turn_starts_while_threads_of_the_previous_contender_spin(host: Host, no_sleep: list[float]) -> None:
    slept_before: list[float] = []
    measure_undisturbed(lambda: slept_before.extend(no_sleep), RetryBudget(60))
    assert sum(slept_before) >= 0.05


def test_a_retry_budget_ends() -> None:
    budget = RetryBudget(2)
    assert [budget.spend(0.9) for _ in range(3)] == [True, True, False]
    assert budget.spent == pytest.approx(1.8)


@pytest.mark.parametrize(("enough", "kept"), [(2, [1.0, 4.0]), (3, [1.0, 2.0, 3.0, 4.0])])
def test_disturbed_rounds_are_left_out_if_enough_remain(enough: int, kept: list[float], host: Host) -> None:
    both = [participant([], host), participant([], host)]
    for each, steal in zip(both, ([0.0, 0.2, 0.0, 0.0], [0.0, 0.0, 0.2, 0.0]), strict=True):
        each.rounds, each.steal = [(1.0,), (2.0,), (3.0,), (4.0,)], steal
    assert list(leave_out_disturbed(both, [1.0, 2.0, 3.0, 4.0], enough)) == kept
    for each in both:
        assert each.rounds == [(second,) for second in kept]
        assert sorted([*each.rounds, *each.left_out]) == [(1.0,), (2.0,), (3.0,), (4.0,)]
        assert len(each.steal) == len(kept)
