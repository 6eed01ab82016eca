"""Time contenders in rounds: they take turns until all times are precise enough, or time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from benchmarks.contenders.protocol import Setup
from benchmarks.measure.cpu_time import read_cpu_time
from benchmarks.measure.worker_client import Worker
from benchmarks.results.schema import MAX_STEAL, Stage
from benchmarks.results.statistics import is_precise, round_times
from runtime.errors import EmbeddingBackbonesError

_REFERENCE_SIZE, _REFERENCE_REPEATS = 1024, 9
_MAX_ROUNDS = 200
# onnxruntime's threads keep spinning for 25 to 45 ms after a call (measured), on the cores of the next contender.
_REST_S = 0.1

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TimingOptions:
    """Options of the timing."""

    threads: int  # threads of every contender.
    min_rounds: int
    seconds: float  # seconds per contender after which no further round starts.
    patience: float  # maximum seconds per group for repeating turns that the host disturbed.
    confidence: float  # confidence level of the interval of each time.
    half_width: float  # rounds end when half of each interval is at most this share of the time.


class RetryBudget:
    """Seconds for repeating turns that the host of a virtual machine disturbed."""

    def __init__(self, seconds: float) -> None:
        """Start with ``seconds``."""
        self.spent = 0.0
        self._seconds = seconds

    def spend(self, seconds: float) -> bool:
        """Tell whether a turn of this length may be repeated, and if so, take the seconds from the budget."""
        if self.spent + seconds > self._seconds:
            return False
        self.spent += seconds
        return True


@dataclass(kw_only=True)
class Participant:
    """Contender in its worker process, and its times so far."""

    setup: Setup
    stage: Stage
    worker: Worker
    start_s: float  # seconds until the model was loaded.
    first_s: float  # seconds of the first call.
    rounds: list[tuple[float, ...]] = field(default_factory=list)  # seconds of each call, by round.
    steal: list[float] = field(default_factory=list)  # share of steal time in each round.
    left_out: list[tuple[float, ...]] = field(default_factory=list)  # seconds of each call of turns that do not count.
    peak_bytes: int = 0

    def take_turn(self, budget: RetryBudget) -> None:
        """Time one turn, and repeat it if the host disturbed it."""
        (seconds, self.peak_bytes), steal, disturbed = measure_undisturbed(self.worker.take_turn, budget)
        self.rounds.append(seconds)
        self.steal.append(round(steal, 4))
        self.left_out += [seconds for seconds, _ in disturbed]

    def is_precise(self, options: TimingOptions) -> bool:
        """Tell whether its time is as precise as ``options`` ask for."""
        return is_precise(round_times(self.rounds, self.stage), options.confidence, options.half_width)

    def keep(self, rounds: Collection[int]) -> None:
        """Leave out all other rounds."""
        self.left_out += [turn for number, turn in enumerate(self.rounds) if number not in rounds]
        self.rounds = [self.rounds[number] for number in rounds]
        self.steal = [self.steal[number] for number in rounds]


def run_rounds(
    participants: list[Participant],
    options: TimingOptions,
    on_failure: Callable[[Setup, EmbeddingBackbonesError], None],
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, ...]:
    """Let all participants take turns, in reverse order every other round.

    A contender that fails is removed from ``participants``, and ``on_failure`` is called.

    Returns:
        Seconds of the reference workload in each round that counts.
    """
    reference_times: list[float] = []
    budget, started = RetryBudget(options.patience), clock()
    while participants and len(reference_times) < _MAX_ROUNDS:
        reference_times.append(measure_undisturbed(time_reference_workload, budget)[0])
        for participant in participants[:: 1 if len(reference_times) % 2 else -1]:
            try:
                participant.take_turn(budget)
            except EmbeddingBackbonesError as exc:
                participants.remove(participant)
                on_failure(participant.setup, exc)
        elapsed = clock() - started - budget.spent
        if len(reference_times) >= options.min_rounds and (
            elapsed > options.seconds * len(participants) or all(each.is_precise(options) for each in participants)
        ):
            break
    return leave_out_disturbed(participants, reference_times, options.min_rounds)


def leave_out_disturbed(
    participants: list[Participant], reference_times: list[float], min_rounds: int
) -> tuple[float, ...]:
    """Leave out the rounds in which the host disturbed any participant, if at least ``min_rounds`` remain.

    Returns:
        Seconds of the reference workload in each remaining round.
    """
    calm = [n for n in range(len(reference_times)) if all(each.steal[n] <= MAX_STEAL for each in participants)]
    if len(calm) < min_rounds:
        return tuple(reference_times)
    for participant in participants:
        participant.keep(calm)
    return tuple(reference_times[number] for number in calm)


def measure_undisturbed(measure: Callable[[], T], budget: RetryBudget) -> tuple[T, float, list[T]]:
    """Call ``measure``, and repeat it while steal time is too high and the budget lasts.

    Each call waits first until the threads of the previous contender rest.

    Returns:
        The last result, the share of steal time during it, and the disturbed results.
    """
    disturbed: list[T] = []
    while True:
        time.sleep(_REST_S)
        started, before = time.perf_counter(), read_cpu_time()
        result = measure()
        steal = read_cpu_time().steal_share_since(before)
        if steal <= MAX_STEAL or not budget.spend(time.perf_counter() - started):
            return result, steal, disturbed
        disturbed.append(result)


def time_reference_workload() -> float:
    """Return the median seconds of nine products of two float32 matrices ``[1024, 1024]`` with numpy."""
    matrix = np.ones((_REFERENCE_SIZE, _REFERENCE_SIZE), dtype=np.float32)
    seconds = []
    for _ in range(_REFERENCE_REPEATS):
        started = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - started)
    return round(float(np.median(seconds)), 7)
