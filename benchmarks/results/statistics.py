"""Derive statistics from raw times: percentiles and the confidence interval of the median."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.results.schema import Case, Stage
from runtime.array_types import Float64Array

FEW_ROUNDS = 5  # confidence intervals of fewer rounds are unreliable
ENOUGH_FOR_P95, ENOUGH_FOR_P99 = 20, 100  # with fewer calls the percentile is the slowest call
_RESAMPLES = 2000

TimesWarning = Literal["", "few rounds", "unstable", "disturbed"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Statistics of a case."""

    calls: int
    p50_ms: float  # median of the medians of the rounds.
    low_ms: float  # lower end of the confidence interval of the median.
    high_ms: float  # upper end of that interval.
    p95_ms: float | None  # 95th percentile; `None` with fewer than `ENOUGH_FOR_P95` calls.
    p99_ms: float | None  # 99th percentile; `None` with fewer than `ENOUGH_FOR_P99` calls.
    mean_ms: float
    items_per_s: float  # items per second, from the mean.
    warning: TimesWarning  # reason to doubt these times.


def summarize(case: Case, confidence: float = 0.95, half_width: float = 0.05) -> Summary:
    """Return the statistics of ``case``, with its warning."""
    times_ms = 1000 * np.concatenate([np.asarray(turn) for turn in case.rounds])
    medians = _medians(case.rounds)
    low, high = median_interval(medians, confidence)
    return Summary(
        calls=len(times_ms),
        p50_ms=1000 * float(np.median(medians)),
        low_ms=1000 * low,
        high_ms=1000 * high,
        p95_ms=float(np.percentile(times_ms, 95)) if len(times_ms) >= ENOUGH_FOR_P95 else None,
        p99_ms=float(np.percentile(times_ms, 99)) if len(times_ms) >= ENOUGH_FOR_P99 else None,
        mean_ms=float(times_ms.mean()),
        items_per_s=1000 * case.items / float(times_ms.mean()),
        warning=_find_warning(case, confidence, half_width),
    )


def _find_warning(case: Case, confidence: float, half_width: float) -> TimesWarning:
    """Return the gravest reason to doubt the times of ``case``; empty if there is none."""
    if len(case.rounds) < FEW_ROUNDS:
        return "few rounds"
    if not is_precise(call_times(case), confidence, half_width):
        return "unstable"
    return "disturbed" if case.disturbed else ""


def is_precise(times: Sequence[float], confidence: float, half_width: float) -> bool:
    """Tell whether half the interval of the median of ``times`` is at most ``half_width`` times that median.

    ``times`` are those of :func:`round_times`, in any unit.
    """
    low, high = median_interval(times, confidence)
    return high - low <= 2 * half_width * float(np.median(times))


def call_times(case: Case) -> list[float]:
    """Return the :func:`round_times` of a case in seconds."""
    return round_times(case.rounds, case.stage)


def round_times(rounds: Sequence[Sequence[float]], stage: Stage) -> list[float]:
    """Return the time of a call in each round, by which cases are judged, compared and ranked.

    ``rounds`` has the times of the calls of each round. End to end, the calls of a round have different items, so this
    is their mean: the median would be the time of the median item. In the graph alone all calls do the same work, and
    this is their median, which one slow call does not change.
    """
    return [float(np.mean(turn)) for turn in rounds] if stage == "end_to_end" else _medians(rounds)


def median_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Return the ends of the percentile bootstrap interval of the median of ``values``, which has one for each round.

    The bootstrap draws whole rounds, not single calls, because the calls of one round are not independent.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    tail = 50 * (1 - confidence)
    low, high = np.percentile(resample_medians(values), [tail, 100 - tail])
    return float(low), float(high)


def resample_medians(values: Sequence[float], seed: int = 0) -> Float64Array:
    """Return the medians of values drawn with replacement: ``[resamples]``, always the same for one ``seed``."""
    drawn = np.random.default_rng(seed).integers(0, len(values), (_RESAMPLES, len(values)))
    return np.asarray(np.median(np.asarray(values)[drawn], axis=1))


def _medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [float(np.median(turn)) for turn in rounds]
