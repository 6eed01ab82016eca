"""What was measured: which cases nothing beats, which one wins, and all of it as a table."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime import console
from runtime.artifact.manifest import Manifest, TowerName
from runtime.artifact.parity import near_one
from runtime.errors import TuningError
from runtime.loading.tuning_store import TunedSettings, machine_fingerprint
from runtime.tune.candidate import Setting

_UNSTEADY = 0.1  # above which a few percent between two cases mean nothing


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One case and its figures.

    Attributes:
        setting: How the graph was loaded.
        batch_size: Items of a call, which go through the graph together.
        p50_ms: Median time of a call, preparation included.
        p95_ms: Its 95th percentile.
        items_per_s: Items a second: of each turn, then the median of those.
        min_cosine: Smallest cosine similarity of a golden vector to torch's.
        calls: Number of calls that were timed.
        spread: How far apart the turns were: the range of the middle half of their items a second, as a share of the
            median.
    """

    setting: Setting
    batch_size: int
    p50_ms: float
    p95_ms: float
    items_per_s: float
    min_cosine: float
    calls: int
    spread: float

    def __str__(self) -> str:
        return f"{self.setting}, batches of {self.batch_size}"


@dataclass(frozen=True, kw_only=True)
class Refused:
    """What could not be measured, or must not win.

    Attributes:
        name: A provider, one of its variants, or a case.
        reason: Why.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was measured of a tower.

    Attributes:
        tower: Its name.
        inputs: What was embedded, for a person.
        max_latency_ms: The bound on the 95th percentile of a call's time; ``None`` for no bound.
        measured: The cases, the one with most items a second first.
        refused: What is not among them.
    """

    tower: TowerName
    inputs: str
    max_latency_ms: float | None
    measured: tuple[Measured, ...]
    refused: tuple[Refused, ...]

    @property
    def winner(self) -> Measured | None:
        """The case with the most items a second within the bound, and of several such the fastest call."""
        bound = np.inf if self.max_latency_ms is None else self.max_latency_ms
        fitting = [case for case in self.measured if case.p95_ms <= bound]
        return max(fitting, key=lambda case: (case.items_per_s, -case.p50_ms), default=None)


def summarize(setting: Setting, batch_size: int, turns: Sequence[Sequence[float]], min_cosine: float) -> Measured:
    """Returns the figures of one case.

    Args:
        setting: How the graph was loaded.
        batch_size: Items of a call.
        turns: Seconds of the calls of each turn.
        min_cosine: Smallest cosine similarity of a golden vector to torch's.
    """
    calls_ms = 1000 * np.concatenate(turns)
    low, median, high = np.percentile([batch_size * len(turn) / sum(turn) for turn in turns], [25, 50, 75])
    return Measured(
        setting=setting,
        batch_size=batch_size,
        p50_ms=float(np.median(calls_ms)),
        p95_ms=float(np.percentile(calls_ms, 95)),
        items_per_s=float(median),
        min_cosine=min_cosine,
        calls=len(calls_ms),
        spread=float((high - low) / median),
    )


def pareto_front(cases: Sequence[Measured]) -> list[Measured]:
    """Returns those of ``cases`` that no other one beats: none has both a call as fast and as many items a second."""
    return [case for case in cases if not any(_beats(other, case) for other in cases)]


def _beats(one: Measured, other: Measured) -> bool:
    level = one.p50_ms <= other.p50_ms and one.items_per_s >= other.items_per_s
    return level and (one.p50_ms, one.items_per_s) != (other.p50_ms, other.items_per_s)


def explain_no_winner(report: Report) -> TuningError:
    """Returns the error for a report without a winner, which says how near it came."""
    if not report.measured:
        first = report.refused[0] if report.refused else Refused(name="nothing", reason="there is no usable provider")
        return TuningError(f"nothing can be tuned: {first.name}: {first.reason}; mend that, or measure other cases")
    fastest = min(report.measured, key=lambda case: case.p95_ms)
    return TuningError(
        f"no case has a p95 within {report.max_latency_ms:g} ms, the fastest being {fastest} with "
        f"{round_figure(fastest.p95_ms)} ms; raise --max-latency-ms, or try smaller --batch-sizes or more --threads; "
        "nothing is stored"
    )


def describe_report(report: Report) -> str:
    """Returns the table of all cases, with the Pareto front marked, what was refused, and the winner."""
    front, winner = pareto_front(report.measured), report.winner
    header = ["provider", "variant", "threads", "batch", "p50 ms", "p95 ms", "items/s", "min cosine", ""]
    rows = [[*_cells(case), _mark(case is winner, case in front)] for case in report.measured]
    lines = [
        report.inputs,
        "a call is embed(batch_size=...) of one batch, preparation included",
        *([console.table(header, rows)] if rows else []),
    ]
    lines += [f"refused: {refused.name}: {refused.reason}" for refused in report.refused]
    if rows:
        lines.append("front: no other case has both a lower p50 and more items/s")
    if winner and len(report.measured) > 1 and winner.batch_size == max(case.batch_size for case in report.measured):
        lines.append("the largest batch size wins: larger ones, by --batch-sizes, may be faster still")
    if winner and winner.spread > _UNSTEADY:
        lines.append(f"the turns of the winner are {winner.spread:.0%} apart: tune again when the machine is quiet")
    return "\n".join(lines)


def report_to_json(report: Report) -> str:
    """Returns ``report`` for machines, with the Pareto front and the winner; null if there is none."""
    front, winner = pareto_front(report.measured), report.winner
    document = dataclasses.asdict(report) | {
        "front": [dataclasses.asdict(case) for case in front],
        "winner": dataclasses.asdict(winner) if winner else None,
    }
    return json.dumps(document, indent=2)


def _cells(case: Measured) -> list[object]:
    setting = case.setting
    figures = [
        round_figure(case.p50_ms),
        round_figure(case.p95_ms),
        round_figure(case.items_per_s),
        near_one(case.min_cosine),
    ]
    return [setting.provider, setting.variant, setting.threads, case.batch_size, *figures]


def round_figure(figure: float) -> str:
    """Returns three digits that count, and no exponent."""
    return f"{float(f'{figure:.3g}'):.12g}"


def _mark(wins: bool, in_front: bool) -> str:
    return ", ".join(["winner"] * wins + ["front"] * in_front)


def make_tuning(manifest: Manifest, tower: TowerName, winner: Measured, max_latency_ms: float | None) -> TunedSettings:
    """Returns the record of a winner on this machine, of today."""
    document = dataclasses.asdict(winner) | dataclasses.asdict(winner.setting)
    names = {field.name for field in dataclasses.fields(TunedSettings)}
    kept = {name: document[name] for name in document.keys() & names}
    return TunedSettings(
        date=dt.datetime.now().astimezone().date().isoformat(),
        artifact=manifest.sha256,
        tower=tower,
        machine=machine_fingerprint(),
        max_latency_ms=max_latency_ms,
        **kept,
    )
