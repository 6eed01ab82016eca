"""Report on a tuning: the measured cases, the Pareto front, the winner, and their rendering as text or JSON."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime import console
from runtime.artifact.manifest import Manifest, TowerName
from runtime.artifact.parity import format_cosine
from runtime.errors import TuningError
from runtime.loading.tuning_store import CaseResult, TunedSettings, TuneSetting, describe_case, machine_fingerprint

_UNSTEADY = 0.1  # above this spread, a difference of a few percent between two cases is noise


@dataclass(frozen=True, kw_only=True)
class RefusedCase:
    """A case that could not be measured, or that must not win."""

    name: str  # name of a provider, a setting or a case
    reason: str


@dataclass(frozen=True, kw_only=True)
class TuneReport:
    """The results of tuning a tower."""

    tower: TowerName
    inputs: str  # description of the embedded items
    max_latency_ms: float | None  # bound on the 95th percentile of the time of a call; ``None`` for no bound
    measured: tuple[CaseResult, ...]  # the case with the highest throughput first
    refused: tuple[RefusedCase, ...]
    default: TuneSetting | None = None  # what ``load`` takes without tuning; ``None`` if it was not measured

    @property
    def winner(self) -> CaseResult | None:
        """The fastest case; or the default with the same batch size, if the two cannot be told apart."""
        fastest = self.fastest
        if fastest is None:
            return None
        rivals = (case for case in self._fitting() if case.setting == self.default)
        default = next((case for case in rivals if case.batch_size == fastest.batch_size), None)
        return fastest if default is None or _is_faster(fastest, default) else default

    def describe(self, case: CaseResult) -> str:
        """Return words for a case."""
        return describe_case(self.tower, case.setting, case.batch_size)

    @property
    def fastest(self) -> CaseResult | None:
        """The case with the highest throughput within the bound; among equals, the one with the fastest call."""
        return max(self._fitting(), key=lambda case: (case.items_per_s, -case.p50_ms), default=None)

    def _fitting(self) -> list[CaseResult]:
        bound = np.inf if self.max_latency_ms is None else self.max_latency_ms
        return [case for case in self.measured if case.p95_ms <= bound]


def summarize(setting: TuneSetting, batch_size: int, turns: Sequence[Sequence[float]], min_cosine: float) -> CaseResult:
    """Return the result of one case. ``turns`` has the seconds of the calls, for each turn."""
    items = batch_size * setting.concurrent_batches
    calls_ms = 1000 * np.concatenate(turns)
    low, median, high = np.percentile([items * len(turn) / sum(turn) for turn in turns], [25, 50, 75])
    return CaseResult(
        setting=setting,
        batch_size=batch_size,
        p50_ms=float(np.median(calls_ms)),
        p95_ms=float(np.percentile(calls_ms, 95)),
        items_per_s=float(median),
        min_cosine=min_cosine,
        calls=len(calls_ms),
        spread=float((high - low) / median),
    )


def pareto_front(cases: Sequence[CaseResult]) -> list[CaseResult]:
    """Return the cases that no other case beats in both the time of a call and throughput."""
    return [case for case in cases if not any(_beats(other, case) for other in cases)]


def _is_faster(one: CaseResult, other: CaseResult) -> bool:
    """Return whether the middle halves of the turns of two cases do not overlap, and ``one`` has more throughput."""
    return one.items_per_s * (1 - one.spread / 2) > other.items_per_s * (1 + other.spread / 2)


def _beats(one: CaseResult, other: CaseResult) -> bool:
    level = one.p50_ms <= other.p50_ms and one.items_per_s >= other.items_per_s
    return level and (one.p50_ms, one.items_per_s) != (other.p50_ms, other.items_per_s)


def explain_no_winner(report: TuneReport) -> TuningError:
    """Return the error for a report without a winner. It names the fastest case."""
    if not report.measured:
        nothing = RefusedCase(name="nothing", reason="there is no usable provider")
        first = next(iter(report.refused), nothing)
        return TuningError(f"nothing can be tuned: {first.name}: {first.reason}; fix that, or measure other cases")
    fastest = min(report.measured, key=lambda case: case.p95_ms)
    return TuningError(
        f"no case has a p95 within {report.max_latency_ms:g} ms; the fastest is {report.describe(fastest)} with "
        f"{round_figure(fastest.p95_ms)} ms; raise --max-latency-ms, or try smaller --batch-sizes or more --threads; "
        "nothing is stored"
    )


def render_text(report: TuneReport) -> str:
    """Return a table of all cases, with the Pareto front and the winner marked, and the refused cases."""
    front, winner = pareto_front(report.measured), report.winner
    header = [
        "provider",
        "variant",
        "threads",
        "side by side",
        "batch",
        "p50 ms",
        "p95 ms",
        "items/s",
        "min cosine",
        "",
    ]
    rows = [
        [*_cells(case), ", ".join(["winner"] * (case is winner) + ["front"] * (case in front))]
        for case in report.measured
    ]
    is_text = report.tower == "text"
    call = "batch x side by side texts, batched by their tokens" if is_text else "the batches that run side by side"
    lines = [
        report.inputs,
        f"a call is embed() of {call}, preprocessing included; on cpu each batch has these threads, elsewhere they "
        "share them",
        *([console.table(header, rows)] if rows else []),
    ]
    lines += [f"refused: {refused.name}: {refused.reason}" for refused in report.refused]
    if rows:
        lines.append("front: no other case has both a lower p50 and more items/s")
    sizes = {case.batch_size for case in report.measured}
    if winner and not is_text and len(report.measured) > 1 and winner.batch_size == max(sizes):
        lines.append("the largest batch size wins: larger ones may be faster still, try them with --batch-sizes")
    if report.fastest and winner is not report.fastest:
        lines.append(
            f"{report.describe(report.fastest)} is not faster than the default beyond the spread of their turns"
        )
    if winner and winner.spread > _UNSTEADY:
        lines.append(f"the turns of the winner differ by {winner.spread:.0%}: tune again when the machine is idle")
    return "\n".join(lines)


def render_json(report: TuneReport) -> str:
    """Return the report as JSON, with the Pareto ``front`` and the ``winner``, which may be null."""
    front, winner = pareto_front(report.measured), report.winner
    document = dataclasses.asdict(report) | {
        "front": [dataclasses.asdict(case) for case in front],
        "winner": dataclasses.asdict(winner) if winner else None,
    }
    return json.dumps(document, indent=2)


def _cells(case: CaseResult) -> list[object]:
    setting = case.setting
    figures = [*map(round_figure, (case.p50_ms, case.p95_ms, case.items_per_s)), format_cosine(case.min_cosine)]
    return [setting.provider, setting.variant, setting.threads, setting.concurrent_batches, case.batch_size, *figures]


def round_figure(figure: float) -> str:
    """Format a number with three significant digits and no exponent."""
    return f"{float(f'{figure:.3g}'):.12g}"


def make_tuning(
    manifest: Manifest, tower: TowerName, winner: CaseResult, max_latency_ms: float | None
) -> TunedSettings:
    """Return the record of a winner on this machine, with today's date."""
    return TunedSettings(
        date=dt.datetime.now().astimezone().date().isoformat(),
        artifact=manifest.sha256,
        tower=tower,
        machine=machine_fingerprint(),
        winner=winner,
        max_latency_ms=max_latency_ms,
    )
