"""Compare old results with new ones: find the cases that became slower or faster beyond the noise.

Times within a run are not divided by the yardstick. A machine with unsteady speed gives a wide interval, not a wrong
one. Rounds that were divided by the yardstick spread three to ten times as far.

Between two runs, the drift of the machine is divided out. The drift of a case is the median change of the other cases
with the same work, which ran in the same minutes. It counts only as far as the yardstick of those minutes agrees, so a
wrong yardstick alone changes nothing. The method has a blind spot: if all cases become slower and a wrong yardstick
agrees, none is called slower.

The intervals are widened so that all of them hold together with the requested confidence (Bonferroni). A verdict needs
an interval that lies beyond the resolution as a whole. It also needs so many rounds that chance alone cannot put all
new times above all old ones: the exact permutation test bounds what any test without assumptions can show. So more
cases need more rounds: 7 rounds in both results for up to 85 cases, 8 for up to 321, 9 for up to 1,215.

In 600 simulated comparisons of 36 unchanged cases, with 12 rounds and machine speeds up to 30% apart, no case got a
verdict. Of 600 slowdowns of 20%, nine in ten were found.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.results.items import check_items
from benchmarks.results.schema import Case, Results, ResultsError
from benchmarks.results.statistics import call_times, resample_medians

CONFIDENCE = 0.95
RESOLUTION = 0.05
_FEW_TURNS = 2  # so few cases with the same work say too little about the machine
_COSINE_TOLERANCE = 1e-4  # a different order of summation changes a cosine by less

Verdict = Literal["slower", "faster", "not distinguishable"]


def typical_s(case: Case) -> float:
    """Return the seconds of a call: the median of its rounds."""
    return float(np.median(call_times(case)))


@dataclass(frozen=True, kw_only=True)
class CaseChange:
    """The change of a case between two results."""

    old: Case
    new: Case
    ratio: float  # new time divided by old time and by `drift`.
    low: float  # lower end of the confidence interval of `ratio`.
    high: float  # upper end of the interval.
    drift: float  # factor by which the machine itself was slower; 1 between different machines.
    # smallest ratio that would have been called slower with such an interval. It is infinite with too few rounds, where
    # chance alone can put all new times above all old ones.
    detectable: float
    verdict: Verdict

    @property
    def parity_is_worse(self) -> bool:
        """Whether its vectors moved away from the reference by more than rounding explains.

        The reference is torch, in float32 or float64, or in both results the artifact's own graph.
        """
        old, new = self.old.parity, self.new.parity
        return old.with_torch == new.with_torch and not new.min_cosine >= old.min_cosine - _COSINE_TOLERANCE

    @property
    def parity_is_lost(self) -> bool:
        """Whether only the old vectors were compared with torch's."""
        return self.old.torch_cosine is not None and self.new.torch_cosine is None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The changes of all cases."""

    changes: tuple[CaseChange, ...]  # changes of the cases that both results have, the largest ratio first.
    gone: tuple[Case, ...]  # cases that only the old results have.
    added: tuple[Case, ...]  # cases that only the new results have.
    failed: tuple[tuple[Case, str], ...]  # those of `gone` whose contender failed in the new run, and the reasons.

    def regressions(self, fail_above: float) -> list[CaseChange]:
        """Return the cases that are slower by more than the share ``fail_above`` of their old time."""
        return [change for change in self.changes if change.verdict == "slower" and change.ratio > 1 + fail_above]

    @property
    def worse_parity(self) -> list[CaseChange]:
        """Cases whose vectors moved away from their reference."""
        return [change for change in self.changes if change.parity_is_worse]

    @property
    def lost_parity(self) -> list[CaseChange]:
        """Cases of which only the old vectors were compared with torch's."""
        return [change for change in self.changes if change.parity_is_lost]

    @property
    def undecidable(self) -> list[CaseChange]:
        """Cases with too few rounds for any verdict."""
        return [change for change in self.changes if change.detectable == math.inf]

    @property
    def rounds_needed(self) -> int:
        """Smallest number of rounds in both results that allows a verdict for this number of cases."""
        return next(n for n in itertools.count(1) if _enough_rounds(n, n, _chance(len(self.changes))))


def compare(old: Results, new: Results, *, same_machine: bool, resolution: float = RESOLUTION) -> Comparison:
    """Judge each case that both results have.

    Drift is divided out if both ran on the ``same_machine``; otherwise raw times are compared. A verdict needs an
    interval that lies beyond ``resolution``, a relative difference: a restarted process differs by its memory layout,
    which no interval within a run shows.

    Raises:
        ResultsError: The results share no case, have different artifacts or items, or hold invalid times.
    """
    _check_artifacts(old, new)
    pairs = _pairs(old, new)
    check_items({"the old results": old, "the new ones": new}, {case.tower for _, case in pairs})
    chance = _chance(len(pairs))
    changes = [
        _judge(*pair, drift=_drift(pair, pairs) if same_machine else 1.0, chance=chance, least=resolution)
        for pair in pairs
    ]
    keys = {before.key for before, _ in pairs}
    gone = tuple(case for case in old.cases if case.key not in keys)
    reasons = {each.name: each.reason for each in new.skipped}
    named = [(case, f"{case.group}: {case.label}") for case in gone]
    return Comparison(
        changes=tuple(sorted(changes, key=lambda change: -change.ratio)),
        gone=gone,
        added=tuple(case for case in new.cases if case.key not in keys),
        failed=tuple((case, reasons[name]) for case, name in named if name in reasons),
    )


def _check_artifacts(old: Results, new: Results) -> None:
    seals = {artifact.name: artifact.seal for artifact in old.artifacts}
    for artifact in new.artifacts:
        seal = seals.get(artifact.name, artifact.seal)
        if seal != artifact.seal:
            raise ResultsError(
                f"{artifact.name} is not the same artifact in both results: the old seal is {seal[:12]}, the new one "
                f"{artifact.seal[:12]}; measure the same artifact twice, or export the new one with another --name "
                "and measure both in one run with `python -m benchmarks OLD_ARTIFACT NEW_ARTIFACT -o REPORT`"
            )


def _chance(cases: int) -> float:
    """Return the probability of a wrong verdict that each of so many cases may have."""
    return (1 - CONFIDENCE) / cases


def _enough_rounds(old: int, new: int, chance: float) -> bool:
    """Tell whether chance puts all times of one result above those of the other so rarely (permutation test)."""
    return 2 / math.comb(old + new, old) <= chance


def _pairs(old: Results, new: Results) -> list[tuple[Case, Case]]:
    before = {case.key: case for case in old.cases}
    pairs = [(before[case.key], case) for case in new.cases if case.key in before]
    if not pairs:
        raise ResultsError("the results have no case in common; measure the same artifacts, contenders and batch sizes")
    for case in (case for pair in pairs for case in pair):
        _check_times(case)
    return pairs


def _check_times(case: Case) -> None:
    times = [*case.yardstick, *(second for turn in case.rounds for second in turn)]
    sound = all(0 < second < math.inf for second in times) and all(case.rounds)
    if not case.rounds or not sound or len(case.yardstick) != len(case.rounds):
        raise ResultsError(
            f"{case.artifact}: {case.label} with batch size {case.items} has a round without times above 0, "
            "or without a yardstick time; measure again"
        )


def _drift(pair: tuple[Case, Case], pairs: Sequence[tuple[Case, Case]]) -> float:
    """Return the factor by which the machine was slower for ``pair``, as far as others and the yardstick agree.

    The others are the cases that took turns with it, or all cases on its device if at most one case did.
    """
    device = [each for each in pairs if each[1].device == pair[1].device]
    turns = [each for each in device if _work(each[1]) == _work(pair[1])]
    shared = [
        typical_s(new) / typical_s(old)
        for old, new in (turns if len(turns) > _FEW_TURNS else device)
        if new is not pair[1]
    ]
    seen = float(np.median([np.median(new.yardstick) / np.median(old.yardstick) for old, new in turns]))
    return float(np.clip(np.median(shared or [1.0]), min(1.0, seen), max(1.0, seen)))


def _work(case: Case) -> tuple[object, ...]:
    """Return the properties that all cases which took turns share."""
    return (case.artifact, case.tower, case.stage, case.items, case.tokens)


def _judge(old: Case, new: Case, *, drift: float, chance: float, least: float) -> CaseChange:
    ratio = typical_s(new) / typical_s(old) / drift
    ratios = resample_medians(call_times(new), seed=1) / resample_medians(call_times(old), seed=0) / drift
    low, high = map(float, np.percentile(ratios, [50 * chance, 100 - 50 * chance]))
    enough = _enough_rounds(len(old.rounds), len(new.rounds), chance)
    verdict: Verdict = "not distinguishable"
    if enough and low > 1 + least:
        verdict = "slower"
    elif enough and high < 1 / (1 + least):
        verdict = "faster"
    detectable = (1 + least) * ratio / low if enough else math.inf
    return CaseChange(
        old=old, new=new, ratio=ratio, low=low, high=high, drift=drift, detectable=detectable, verdict=verdict
    )
