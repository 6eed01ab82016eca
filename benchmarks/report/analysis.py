"""What the results come to: every case with the figures derived from it, in the order in which a report shows them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmarks.report.roofline import Roofline, place
from benchmarks.report.speedup import Ratio, find_baseline, is_baseline, speed_ratio
from benchmarks.results.prices import Prices, cost_per_million
from benchmarks.results.schema import Artifact, Case, Results, Stage
from benchmarks.results.statistics import Summary, summarize
from runtime.artifact.manifest import TowerName

FAITHFUL = 0.999  # the cosine from which vectors are taken for those of torch
FEW_ROUNDS = 5  # an interval of fewer says next to nothing


@dataclass(frozen=True, kw_only=True)
class Row:
    """A case with its figures.

    Attributes:
        case: What was measured.
        summary: Its times.
        ratio: Speed against torch eager at the same work; ``None`` if that was not measured, or is this case.
        roofline: Where it stands under the roofline, or why that is not known.
        cosine: Smallest cosine to the reference, of this case or else of the same way at other work; ``None`` if
            it was never held against it.
        cost_per_million: Price of a million embeddings; ``None`` without a price, or at another stage than end to end.
    """

    case: Case
    summary: Summary
    ratio: Ratio | None
    roofline: Roofline | str
    cosine: float | None
    cost_per_million: float | None

    @property
    def label(self) -> str:
        """Who, how and on what."""
        return self.case.label

    @property
    def faithful(self) -> bool:
        """Whether its vectors can be taken for those of torch eager, which it may be itself."""
        return is_baseline(self.case) if self.cosine is None else self.cosine >= FAITHFUL

    @property
    def doubt(self) -> str:
        """What is to be said beside its times: ``few rounds``, ``unstable``, ``disturbed``, or nothing."""
        if len(self.case.rounds) < FEW_ROUNDS:
            return "few rounds"
        if not self.summary.stable:
            return "unstable"
        return "disturbed" if self.case.disturbed else ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One tower of an artifact.

    Attributes:
        artifact: Of which artifact.
        tower: Which of its towers; ``None`` where nothing of the artifact was measured.
        rows: Its cases, those of one way to embed together, by batch size.
    """

    artifact: Artifact
    tower: TowerName | None
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """Name of the artifact and tower."""
        return f"{self.artifact.name}, {self.tower} tower" if self.tower else self.artifact.name

    def at(self, stage: Stage) -> tuple[Row, ...]:
        """Returns the rows of a stage."""
        return tuple(row for row in self.rows if row.case.stage == stage)

    @property
    def decisive(self) -> tuple[Row, ...]:
        """The rows that settings are chosen by: end to end, or else of the graph alone with the longest texts."""
        longest = max((row.case.tokens or 0 for row in self.at("graph")), default=0)
        alone = tuple(row for row in self.at("graph") if (row.case.tokens or 0) == longest)
        return self.at("end_to_end") or alone

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """All ways to embed, in the order in which they came."""
        return tuple(dict.fromkeys(row.label for row in self.rows))


@dataclass(frozen=True, kw_only=True)
class Study:
    """All that a report shows.

    Attributes:
        results: What it was made from.
        sections: The towers, in the order of the artifacts.
        prices: What machines cost; ``None`` if nobody said.
        per_hour: What this machine costs an hour; ``None`` if that is not known.
    """

    results: Results
    sections: tuple[Section, ...]
    prices: Prices | None
    per_hour: float | None

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all sections."""
        return tuple(row for section in self.sections for row in section.rows)

    @property
    def currency(self) -> str:
        """Of the prices; empty without any."""
        return self.prices.currency if self.prices and self.per_hour is not None else ""


def study(results: Results, prices: Prices | None) -> Study:
    """Returns ``results`` with the figures that follow from them. Cases of which no call was timed are left out."""
    per_hour = prices.per_hour(results.machine.name) if prices else None
    cases = [case for case in results.cases if case.rounds and all(case.rounds)]
    sections = [
        Section(artifact=artifact, tower=tower, rows=_rows(results, members, per_hour))
        for artifact in results.artifacts
        for tower, members in _towers(artifact, cases)
    ]
    return Study(results=results, sections=tuple(sections), prices=prices, per_hour=per_hour)


def best(rows: Iterable[Row]) -> Row | None:
    """Returns the row of the most items a second; ``None`` of none."""
    return max(rows, key=lambda row: row.summary.items_per_s, default=None)


def quickest(rows: Iterable[Row]) -> Row | None:
    """Returns the row of the shortest median time among those of the fewest items; ``None`` of none."""
    rows = list(rows)
    fewest = min((row.case.items for row in rows), default=0)
    return min((row for row in rows if row.case.items == fewest), key=lambda row: row.summary.p50_ms, default=None)


def _towers(artifact: Artifact, cases: Sequence[Case]) -> list[tuple[TowerName | None, list[Case]]]:
    own = [case for case in cases if case.artifact == artifact.name]
    towers: list[TowerName | None] = list(dict.fromkeys(case.tower for case in own))
    return [(tower, [case for case in own if case.tower == tower]) for tower in towers or [None]]


def _rows(results: Results, cases: Sequence[Case], per_hour: float | None) -> tuple[Row, ...]:
    order = {label: position for position, label in enumerate(dict.fromkeys(case.label for case in cases))}
    ordered = sorted(cases, key=lambda case: (order[case.label], case.stage, case.tokens or math.inf, case.items))
    return tuple(_row(results, case, cases, per_hour) for case in ordered)


def _row(results: Results, case: Case, cases: Sequence[Case], per_hour: float | None) -> Row:
    figures = summarize(case, results.confidence, results.precision)
    baseline = None if is_baseline(case) else find_baseline(case, cases)
    priced = per_hour is not None and case.stage == "end_to_end"
    return Row(
        case=case,
        summary=figures,
        ratio=speed_ratio(case, baseline, results.confidence) if baseline else None,
        roofline=place(case, figures.p50_ms, results.ceilings),
        cosine=_cosine(case, cases),
        cost_per_million=cost_per_million(figures.items_per_s, per_hour) if priced and per_hour is not None else None,
    )


def _cosine(case: Case, cases: Sequence[Case]) -> float | None:
    if case.parity is not None:
        return case.parity.min_cosine
    same = [other.parity.min_cosine for other in cases if other.label == case.label and other.parity]
    return min(same, default=None)
