"""Recommend a setup and a batch size for each goal."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.report.analysis import RUNTIME, TORCH_COSINE, Row, Section, highest_throughput, lowest_latency
from benchmarks.report.format import count


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The best case for a goal."""

    section: Section
    goal: str  # the goal, as a phrase.
    row: Row
    latency: bool  # whether the goal is low latency; otherwise it is high throughput.

    def command(self, threads: int) -> str:
        """Return the matching options of ``python -m runtime embed``; empty for other contenders.

        ``--batch-size`` is none of them: a case of N items is one call of ``embed``, which divides them itself.
        """
        options = self.row.case.runtime_options
        return options and f"{options} --threads {threads}"


def recommend(section: Section) -> tuple[Recommendation, ...]:
    """Return the recommendations for a tower, those with torch's vectors and the best throughput first.

    Faster setups with other vectors follow, then the best of this runtime. A case is named once for each goal.
    """
    rows = section.decisive
    matching = [row for row in rows if row.matches_torch]
    ours = [row for row in matching if row.case.contender == RUNTIME]
    found: dict[object, Recommendation] = {}
    for candidates, condition in (
        (matching, f"cosine >= {TORCH_COSINE}"),
        (rows, "any cosine"),
        (ours, f"this runtime, cosine >= {TORCH_COSINE}"),
    ):
        most, soonest = highest_throughput(candidates), lowest_latency(candidates)
        if most and soonest:
            goals = ("highest throughput", f"lowest latency of {count(soonest.case.items, 'item')}")
            for row, goal, latency in ((most, goals[0], False), (soonest, goals[1], True)):
                best = Recommendation(section=section, goal=f"{goal}, {condition}", row=row, latency=latency)
                found.setdefault((latency, row.case.key), best)
    return tuple(found.values())
