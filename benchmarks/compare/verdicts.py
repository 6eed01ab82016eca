"""Old results against new ones: which cases became slower, and which differences the noise could have made.

Within a run nothing is divided by the yardstick: a machine that swings gives a wide interval, not a wrong one, and
rounds that were divided by it were seen to spread three to ten times as far as before.

Between runs, what most others at the same work share, who were measured in the same minutes, is taken off, as far as
the yardstick of those minutes shows it too: a yardstick that is off alone changes nothing. What is lost by that: all
slower together when the machine was faster cannot be told from a yardstick that is off, and is not called slower.

The intervals are widened until all of them together hold with the confidence asked for (Bonferroni), and a verdict
needs one that lies beyond the resolution as a whole. In 600 simulated comparisons of the same thing, of 36 cases and 12
rounds on days up to 30% apart, no case had one, and of 600 slowdowns of 20% nine in ten were found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.results.schema import Case, Results, ResultsError
from benchmarks.results.statistics import resample_medians

CONFIDENCE = 0.95
RESOLUTION = 0.05
_FEW = 2  # contenders, of which the other tells too little of the machine

_HAIR = 1e-4  # of a cosine; sums in another order move it less

Verdict = Literal["slower", "faster", "not distinguishable"]
Rounds = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Change:
    """What became of a case.

    Attributes:
        old: The case as it was.
        new: The case as it is.
        ratio: Its new time by its old one, without what the machine did.
        low: Lower end of the interval of ``ratio``.
        high: Its upper end.
        drift: How many times slower the machine was, whatever ran on it; 1 between machines.
        visible: The least ratio that would have been called slower with such an interval; infinite with too few rounds,
            where all new ones may be above all old ones by chance.
        verdict: What that says.
    """

    old: Case
    new: Case
    ratio: float
    low: float
    high: float
    drift: float
    visible: float
    verdict: Verdict

    @property
    def parity_is_worse(self) -> bool:
        """Whether its vectors have moved away from the same reference by more than rounding does."""
        old, new = self.old.parity, self.new.parity
        if old is None or new is None or (old.reference, old.items) != (new.reference, new.items):
            return False
        return new.min_cosine < old.min_cosine - _HAIR


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What became of all cases.

    Attributes:
        changes: The cases that both results have, the slowest ratio first.
        gone: Cases that only the old results have.
        added: Cases that only the new results have.
    """

    changes: tuple[Change, ...]
    gone: tuple[Case, ...]
    added: tuple[Case, ...]

    def regressions(self, fail_above: float) -> list[Change]:
        """Returns the cases that are slower, and by more than ``fail_above`` of their old time."""
        return [change for change in self.changes if change.verdict == "slower" and change.ratio > 1 + fail_above]


def compare(old: Results, new: Results, *, same_machine: bool, resolution: float = RESOLUTION) -> Comparison:
    """Finds the cases that both results have, and tells which became slower or faster.

    Args:
        old: What is compared with.
        new: What is judged.
        same_machine: Whether the yardsticks are of one machine, so that they tell how fast it was. Raw times are
            compared otherwise.
        resolution: Share of a time up to which no difference is believed, since a process that is started again
            differs by its memory's layout, which no interval within a run can see; the interval has to lie beyond it.

    Raises:
        ResultsError: They share no case, are of different artifacts, or hold times that cannot be.
    """
    _refuse_other_artifacts(old, new)
    pairs = _pairs(old, new)
    chance = (1 - CONFIDENCE) / len(pairs)
    changes = [
        _judge(*pair, drift=_drift(pair, pairs) if same_machine else 1.0, chance=chance, least=resolution)
        for pair in pairs
    ]
    keys = {before.key for before, _ in pairs}
    return Comparison(
        changes=tuple(sorted(changes, key=lambda change: -change.ratio)),
        gone=tuple(case for case in old.cases if case.key not in keys),
        added=tuple(case for case in new.cases if case.key not in keys),
    )


def _refuse_other_artifacts(old: Results, new: Results) -> None:
    seals = {artifact.name: artifact.seal for artifact in old.artifacts}
    for artifact in new.artifacts:
        seal = seals.get(artifact.name, artifact.seal)
        if seal != artifact.seal:
            raise ResultsError(
                f"{artifact.name} is not the same artifact in both: its seal was {seal[:12]} and is "
                f"{artifact.seal[:12]}; measure one artifact twice, or export the new one under another --name "
                "and measure both in one run, by `python -m benchmarks OLD_ARTIFACT NEW_ARTIFACT -o REPORT`"
            )


def _pairs(old: Results, new: Results) -> list[tuple[Case, Case]]:
    before = {case.key: case for case in old.cases}
    pairs = [(before[case.key], case) for case in new.cases if case.key in before]
    if not pairs:
        raise ResultsError(
            "the results have no case in common, so there is nothing to compare; "
            "measure the same artifacts, contenders and batch sizes"
        )
    for case in (case for pair in pairs for case in pair):
        _check_times(case)
    return pairs


def _check_times(case: Case) -> None:
    times = [*case.yardstick, *(second for turn in case.rounds for second in turn)]
    sound = all(0 < second < math.inf for second in times) and all(case.rounds)
    if not case.rounds or not sound or len(case.yardstick) != len(case.rounds):
        raise ResultsError(
            f"{case.artifact}: {case.label} at {case.items} items: its rounds hold no times above 0, "
            "or not one of the yardstick each; measure again"
        )


def _drift(pair: tuple[Case, Case], pairs: Sequence[tuple[Case, Case]]) -> float:
    """Returns how many times slower the machine was for ``pair``: what the others and the yardstick agree on.

    The others are those that took turns with it, or where that were fewer than two, all on its device.
    """
    device = [each for each in pairs if each[1].device == pair[1].device]
    turns = [each for each in device if _work(each[1]) == _work(pair[1])]
    shared = [
        _centre(new.rounds) / _centre(old.rounds)
        for old, new in (turns if len(turns) > _FEW else device)
        if new is not pair[1]
    ]
    seen = float(np.median([np.median(new.yardstick) / np.median(old.yardstick) for old, new in turns]))
    return float(np.clip(np.median(shared or [1.0]), min(1.0, seen), max(1.0, seen)))


def _work(case: Case) -> tuple[object, ...]:
    """Returns what is the same of all contenders that took turns."""
    return (case.artifact, case.tower, case.stage, case.items, case.tokens)


def _judge(old: Case, new: Case, *, drift: float, chance: float, least: float) -> Change:
    ratio = _centre(new.rounds) / _centre(old.rounds) / drift
    ratios = resample_medians(new.rounds, seed=1) / resample_medians(old.rounds, seed=0) / drift
    low, high = map(float, np.percentile(ratios, [50 * chance, 100 - 50 * chance]))
    enough = 2 / math.comb(len(old.rounds) + len(new.rounds), len(old.rounds)) <= chance
    verdict: Verdict = "not distinguishable"
    if enough and low > 1 + least:
        verdict = "slower"
    elif enough and high < 1 / (1 + least):
        verdict = "faster"
    visible = (1 + least) * ratio / low if enough else math.inf
    return Change(old=old, new=new, ratio=ratio, low=low, high=high, drift=drift, visible=visible, verdict=verdict)


def _centre(rounds: Rounds) -> float:
    return float(np.median([np.median(turn) for turn in rounds]))
