"""How many times as fast as another one a case is, from the rounds in which both took their turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.report import format as words
from benchmarks.results.schema import Case
from benchmarks.results.statistics import median_interval


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Speed against that of another case.

    Attributes:
        times: How many times as fast: the median over rounds.
        low: Lower end of its bootstrap interval.
        high: Its upper end.
    """

    times: float
    low: float
    high: float

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves out that both are as fast."""
        return not self.low <= 1 <= self.high

    def __str__(self) -> str:
        return f"{words.digits(self.times)} {words.span(self.low, self.high)}"


def find_baseline(case: Case, cases: Sequence[Case]) -> Case | None:
    """Returns torch eager at the same work on the same kind of device; ``None`` if it was not measured."""
    for other in cases:
        if is_baseline(other) and _work_of(other) == _work_of(case):
            return other
    return None


def is_baseline(case: Case) -> bool:
    """Tells whether ``case`` is what the others are held against."""
    return (case.contender, case.variant) == ("torch", "eager")


def speed_ratio(case: Case, baseline: Case, confidence: float) -> Ratio:
    """Returns how many times as fast as ``baseline`` ``case`` is.

    Each round gives one ratio, of its two medians, so that what slowed the machine in a round slows both alike; whole
    rounds are drawn for the interval. Only rounds that both have are used.
    """
    turns = zip(case.rounds, baseline.rounds, strict=False)
    ratios = [float(np.median(theirs) / np.median(ours)) for ours, theirs in turns]
    low, high = median_interval([(ratio,) for ratio in ratios], confidence)
    return Ratio(times=float(np.median(ratios)), low=low, high=high)


def _work_of(case: Case) -> tuple[object, ...]:
    return case.artifact, case.tower, case.stage, case.items, case.tokens, case.device
