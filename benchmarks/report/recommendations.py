"""Which way to embed to take for which goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report.analysis import Row, Section, best, quickest

OURS = "runtime"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What to take.

    Attributes:
        goal: For what.
        row: The case that showed it.
        single: Whether the goal is to have one item soon, and not many in a given time.
    """

    goal: str
    row: Row
    single: bool

    def command(self, threads: int) -> str:
        """Returns the options of ``python -m runtime embed`` that do it; empty for what is not ours."""
        case = self.row.case
        if case.contender != OURS:
            return ""
        return f"--provider {case.provider} --variant {case.variant} --batch-size {case.items} --threads {threads}"


def choices(section: Section) -> tuple[Choice, ...]:
    """Returns what to take, the best throughput first.

    Those whose vectors are torch's come first; others are named where they are faster, and ours where it is not.
    """
    rows = section.decisive
    faithful = [row for row in rows if row.faithful]
    found = [
        *_both(faithful, "with torch's vectors"),
        *_both(rows, "whatever the cosine"),
        *_both([row for row in faithful if row.case.contender == OURS], "by the runtime, with torch's vectors"),
    ]
    return _distinct(found)


def _both(rows: Sequence[Row], which: str) -> list[Choice]:
    most, soonest = best(rows), quickest(rows)
    if most is None or soonest is None:
        return []
    few = "one item" if soonest.case.items == 1 else f"{soonest.case.items} items"
    return [
        Choice(goal=f"most items a second, {which}", row=most, single=False),
        Choice(goal=f"{few} soonest, {which}", row=soonest, single=True),
    ]


def _distinct(found: Sequence[Choice]) -> tuple[Choice, ...]:
    """Leaves out what names again, for the same end, a case that was named before."""
    first = {(choice.single, choice.row.case.key): choice for choice in reversed(found)}
    return tuple(choice for choice in found if first[choice.single, choice.row.case.key] is choice)
