"""Speedup of a case over a baseline, from the rounds in which both took turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.results.schema import Case
from benchmarks.results.statistics import call_times, median_interval


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """Speed of a case divided by that of its baseline."""

    times: float  # median over rounds.
    low: float  # lower end of its bootstrap confidence interval.
    high: float  # upper end of the interval.

    @property
    def distinguishable(self) -> bool:
        """Whether the confidence interval excludes equal speed."""
        return not self.low <= 1 <= self.high


def find_baseline(case: Case, cases: Sequence[Case]) -> Case | None:
    """Return torch eager at the same work on the same kind of device; ``None`` if it was not measured."""
    return next((other for other in cases if is_baseline(other) and _work_of(other) == _work_of(case)), None)


def is_baseline(case: Case) -> bool:
    """Tell whether ``case`` is torch eager, the baseline of all others."""
    return (case.contender, case.variant) == ("torch", "eager")


def compute_speedup(case: Case, baseline: Case, confidence: float) -> Speedup:
    """Return the speedup of ``case`` over ``baseline``.

    Each round that both have gives one ratio of their :func:`~benchmarks.results.statistics.call_times`, so that a slow
    phase of the machine cancels out. The bootstrap draws whole rounds.
    """
    ratios = [theirs / ours for ours, theirs in zip(call_times(case), call_times(baseline), strict=False)]
    low, high = median_interval(ratios, confidence)
    return Speedup(times=float(np.median(ratios)), low=low, high=high)


def _work_of(case: Case) -> tuple[object, ...]:
    return case.artifact, case.tower, case.stage, case.items, case.tokens, case.device
