"""Figures from raw times: percentiles, what of them is certain, and whether the machine was quiet enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.results.schema import Case

ENOUGH_FOR_P99 = 100  # with fewer calls it is the slowest one
_RESAMPLES = 2000
_SEED = 0

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The figures of a case.

    Attributes:
        calls: Number of calls that were timed.
        p50_ms: Median time of a call.
        low_ms: Lower end of the bootstrap interval of the median.
        high_ms: Its upper end.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile; ``None`` with too few calls to know it.
        mean_ms: Mean.
        items_per_s: Items a second, by the mean.
        stable: Whether the interval is as narrow as was aimed at.
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


def summarize(case: Case, confidence: float = 0.95, precision: float = 0.05) -> Summary:
    """Returns the figures of ``case``.

    Args:
        case: What was measured.
        confidence: Of the interval of the median.
        precision: Half-width of that interval, as a share of the median, up to which a case is stable.
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
        stable=is_precise(case.rounds, confidence, precision),
    )


def is_precise(rounds: Sequence[Sequence[float]], confidence: float, precision: float) -> bool:
    """Tells whether the interval of the median reaches no further than ``precision`` of it to either side."""
    low, high = median_interval(rounds, confidence)
    return high - low <= 2 * precision * float(np.median(np.concatenate([np.asarray(turn) for turn in rounds])))


def median_interval(rounds: Sequence[Sequence[float]], confidence: float) -> tuple[float, float]:
    """Returns the ends of the percentile bootstrap interval of the median.

    Whole rounds are drawn and not single calls, since calls of one round share what the machine did at that time.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Args:
        rounds: Times of the calls of each round, in any unit, which is that of the result.
        confidence: Share of such intervals that hold the true median.
    """
    medians = resample_medians(rounds)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(medians, [tail, 100 - tail])
    return float(low), float(high)


def resample_medians(rounds: Sequence[Sequence[float]], seed: int = _SEED) -> Array:
    """Returns medians of rounds that were drawn with replacement: ``[resamples]``, the same for the same ``seed``.

    A round stands for itself by its own median, so that rounds of many calls weigh no more than others.
    """
    centres = np.array([float(np.median(turn)) for turn in rounds])
    drawn = np.random.default_rng(seed).integers(0, len(centres), (_RESAMPLES, len(centres)))
    return np.asarray(np.median(centres[drawn], axis=1))
