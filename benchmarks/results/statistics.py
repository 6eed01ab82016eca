"""Derive statistics from raw times: percentiles and the confidence interval of the median."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.results.schema import Case

ENOUGH_FOR_P99 = 100  # with fewer calls the 99th percentile is the slowest call
_RESAMPLES = 2000
_SEED = 0

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Statistics of a case.

    Attributes:
        calls: Number of calls that were timed.
        p50_ms: Median time of a call.
        low_ms: Lower end of the confidence interval of the median.
        high_ms: Upper end of that interval.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile; ``None`` with fewer than :data:`ENOUGH_FOR_P99` calls.
        mean_ms: Mean.
        items_per_s: Items per second, from the mean.
        stable: Whether the interval is as narrow as the run asked for.
    """

    calls: int
    p50_ms: float
    low_ms: float
    high_ms: float
    p95_ms: float
    p99_ms: float | None
    mean_ms: float
    items_per_s: float
    stable: bool


def summarize(case: Case, confidence: float = 0.95, half_width: float = 0.05) -> Summary:
    """Return the statistics of ``case``.

    Args:
        case: The measured case.
        confidence: Confidence level of the interval of the median.
        half_width: Maximum half-width of that interval, as a share of the median, for a case to be stable.
    """
    times_ms = 1000 * np.concatenate([np.asarray(turn) for turn in case.rounds])
    low, high = median_interval(case.rounds, confidence)
    median = float(np.median(times_ms))
    return Summary(
        calls=len(times_ms),
        p50_ms=median,
        low_ms=1000 * low,
        high_ms=1000 * high,
        p95_ms=float(np.percentile(times_ms, 95)),
        p99_ms=float(np.percentile(times_ms, 99)) if len(times_ms) >= ENOUGH_FOR_P99 else None,
        mean_ms=float(times_ms.mean()),
        items_per_s=1000 * case.items / float(times_ms.mean()),
        stable=is_precise(case.rounds, confidence, half_width),
    )


def is_precise(rounds: Sequence[Sequence[float]], confidence: float, half_width: float) -> bool:
    """Tell whether half the interval of the median is at most ``half_width`` times the median."""
    low, high = median_interval(rounds, confidence)
    return high - low <= 2 * half_width * float(np.median(np.concatenate([np.asarray(turn) for turn in rounds])))


def median_interval(rounds: Sequence[Sequence[float]], confidence: float) -> tuple[float, float]:
    """Return the ends of the percentile bootstrap interval of the median.

    The bootstrap draws whole rounds, not single calls, because the calls of one round are not independent.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Args:
        rounds: Times of the calls of each round, in any unit; the result has the same unit.
        confidence: Confidence level, such as 0.95.
    """
    medians = resample_medians(rounds)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(medians, [tail, 100 - tail])
    return float(low), float(high)


def resample_medians(rounds: Sequence[Sequence[float]], seed: int = _SEED) -> Array:
    """Return medians of rounds drawn with replacement: ``[resamples]``, always the same for one ``seed``.

    Each round is represented by its own median, so that a round with many calls weighs no more than another.
    """
    centres = np.array([float(np.median(turn)) for turn in rounds])
    drawn = np.random.default_rng(seed).integers(0, len(centres), (_RESAMPLES, len(centres)))
    return np.asarray(np.median(centres[drawn], axis=1))
