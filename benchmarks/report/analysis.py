"""Derive the figures of a report from results: every case with its figures, in the order of the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmarks.report.roofline import Roofline, find_roofline
from benchmarks.report.speedup import Speedup, compute_speedup, find_baseline, is_baseline
from benchmarks.results.prices import Prices, cost_per_million
from benchmarks.results.schema import Artifact, Case, Results, Stage
from benchmarks.results.statistics import Summary, TimesWarning, call_times, median_interval, summarize
from runtime.artifact.manifest import TowerName

RUNTIME = "runtime"  # the contender of this project.
TORCH_COSINE = 0.999  # vectors with at least this cosine similarity count as equal to torch's.


@dataclass(frozen=True, kw_only=True)
class Row:
    """A case with its figures."""

    case: Case
    summary: Summary
    certain_items_per_s: float  # items per second at the slow end of the confidence interval.
    # speedup over torch eager at the same work; `None` for torch eager or without such a baseline.
    speedup: Speedup | None
    roofline: Roofline | str  # position under the roofline, or the reason why it is unknown.
    cost_per_million: float | None  # price of a million embeddings; `None` without a price, or for graph-only cases.

    @property
    def label(self) -> str:
        """Name of the setup: contender, variant and provider."""
        return self.case.label

    @property
    def cosine(self) -> float | None:
        """Smallest cosine similarity to torch; ``None`` if the case was not compared with torch."""
        return self.case.torch_cosine

    @property
    def matches_torch(self) -> bool:
        """Whether its vectors count as equal to those of torch eager."""
        return is_baseline(self.case) if self.cosine is None else self.cosine >= TORCH_COSINE

    @property
    def warning(self) -> TimesWarning:
        """Warning to print beside its times."""
        return self.summary.warning


@dataclass(frozen=True, kw_only=True)
class Section:
    """One tower of an artifact."""

    artifact: Artifact
    tower: TowerName | None  # the tower; `None` if no case of the artifact was measured.
    rows: tuple[Row, ...]  # its cases, grouped by setup and sorted by batch size.

    @property
    def title(self) -> str:
        """Name of the artifact and the tower."""
        return f"{self.artifact.name}, {self.tower} tower" if self.tower else self.artifact.name

    def at(self, stage: Stage) -> tuple[Row, ...]:
        """Return the rows of a stage."""
        return tuple(row for row in self.rows if row.case.stage == stage)

    @property
    def decisive(self) -> tuple[Row, ...]:
        """Rows for choosing settings: the end-to-end rows, else the graph-only rows with the longest texts."""
        longest = max((row.case.tokens or 0 for row in self.at("graph")), default=0)
        return self.at("end_to_end") or tuple(row for row in self.at("graph") if (row.case.tokens or 0) == longest)

    @property
    def compared_with_torch(self) -> bool:
        """Whether the vectors of any case were compared with torch's."""
        return any(row.cosine is not None for row in self.rows)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of all setups, in order of first appearance."""
        return tuple(dict.fromkeys(row.label for row in self.rows))


@dataclass(frozen=True, kw_only=True)
class Study:
    """The content of a report."""

    results: Results
    sections: tuple[Section, ...]  # the towers, in the order of the artifacts.
    prices: Prices | None  # prices of machines; `None` without a price file.
    per_hour: float | None  # price of this machine per hour; `None` if it is unknown.

    @property
    def title(self) -> str:
        """Title of the report."""
        return f"Benchmarks on {self.results.machine.name}"

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all sections."""
        return tuple(row for section in self.sections for row in section.rows)

    @property
    def currency(self) -> str:
        """Currency of the prices; empty if the price of this machine is unknown."""
        return self.prices.currency if self.prices and self.per_hour is not None else ""


def analyze(results: Results, prices: Prices | None) -> Study:
    """Return ``results`` with all derived figures. Cases without a timed call are left out."""
    per_hour = prices.per_hour(results.machine.name) if prices else None
    cases = [case for case in results.cases if case.rounds and all(case.rounds)]
    sections = [
        Section(artifact=artifact, tower=tower, rows=_rows(results, members, per_hour))
        for artifact in results.artifacts
        for tower, members in _towers(artifact, cases)
    ]
    return Study(results=results, sections=tuple(sections), prices=prices, per_hour=per_hour)


def highest_throughput(rows: Iterable[Row]) -> Row | None:
    """Return the row with the most certain items per second, so that noise does not win; ``None`` without rows."""
    return max(rows, key=lambda row: row.certain_items_per_s, default=None)


def lowest_latency(rows: Iterable[Row]) -> Row | None:
    """Return the row with the shortest median time at the smallest batch size; ``None`` if there is no row."""
    return min(rows, key=lambda row: (row.case.items, row.summary.p50_ms), default=None)


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
    hourly = per_hour if case.stage == "end_to_end" else None
    _, slowest_s = median_interval(call_times(case), results.confidence)
    return Row(
        case=case,
        summary=figures,
        certain_items_per_s=case.items / slowest_s,
        speedup=compute_speedup(case, baseline, results.confidence) if baseline else None,
        roofline=find_roofline(case, figures.p50_ms, results.ceilings),
        cost_per_million=None if hourly is None else cost_per_million(figures.items_per_s, hourly),
    )
