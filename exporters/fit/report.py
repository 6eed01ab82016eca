"""The report of a fine-tuning: a table for the terminal, and a page with the curve of the loss."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime import console

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 200, 56, 28
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: light-dark(#0072b2, #3d9be0); --soft: light-dark(#59636e, #a3acb6); }}
body {{ margin: 2rem auto; padding: 0 1rem; max-width: 44rem; font: 16px/1.5 system-ui, sans-serif; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid var(--soft); }}
svg {{ width: 100%; height: auto; }} svg text {{ font-size: 11px; fill: var(--soft); }}
.axis {{ stroke: var(--soft); fill: none; }} .curve {{ stroke: var(--line); fill: none; stroke-width: 1.5; }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
{tables}
<h2>Loss at each step</h2>
{plot}
</html>
"""


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """The figures of a fine-tuning.

    Attributes:
        model: Name of the model.
        kind: Kind of the data.
        loss: Name of the loss.
        rows: Number of rows of the training data.
        rows_per_epoch: Number of these rows that the first epoch trains on.
        single_labels: Number of labels with one item, which no epoch trains on.
        eval_rows: Number of rows of the evaluation data.
        skipped: Number of bad rows that were left out.
        main_metric: Name of the metric that chose the best epoch; ``None`` without evaluation data.
        before: Metrics before the training, by name.
        after: Metrics of the result.
        evaluations: Metrics after each epoch.
        losses: Loss at each step.
        parameters: Number of parameters that were trained.
        seconds: Time in the trainer, of the last process if the training was resumed.
        steps: Number of steps.
        resumed_at: Step from which the last process went on; 0 if it began the training.
        peak_memory_bytes: Largest memory of the process, or of the GPU.
        options: Options of the fine-tuning.
    """

    model: str
    kind: str
    loss: str
    rows: int
    rows_per_epoch: int
    single_labels: int
    eval_rows: int
    skipped: int
    main_metric: str | None
    before: Mapping[str, float]
    after: Mapping[str, float]
    evaluations: Sequence[Mapping[str, float]]
    losses: Sequence[float]
    parameters: int
    seconds: float
    steps: int
    resumed_at: int
    peak_memory_bytes: int
    options: Mapping[str, Any]

    @property
    def worse(self) -> bool:
        """Whether the main metric has become worse."""
        return self.main_metric is not None and not self.after[self.main_metric] >= self.before[self.main_metric]

    def describe(self) -> str:
        """Return the report as text."""
        lines = [self._summary()]
        if self.main_metric is None:
            lines.append("no evaluation data, so nothing tells whether the model is better; give --eval or --val-split")
        else:
            lines.append(console.table(("metric", "before", "after"), self._compared()))
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write ``report.json`` and ``report.html``."""
        (folder / "report.json").write_text(json.dumps(asdict(self), indent=2, default=str) + "\n", "utf-8")
        tables = _table(("metric", "before", "after"), self._compared()) if self.main_metric else ""
        if self.main_metric:
            rows = [(number, f"{metrics[self.main_metric]:.4f}") for number, metrics in enumerate(self.evaluations, 1)]
            tables += "<h2>After each epoch</h2>" + _table(("epoch", self.main_metric), rows)
        page = _PAGE.format(
            title=html.escape(f"{self.model}, fine-tuned"),
            summary=html.escape(self._summary()),
            tables=tables,
            plot=_plot(self.losses),
        )
        (folder / "report.html").write_text(page, "utf-8")

    def _summary(self) -> str:
        per_step = self.seconds / max(1, self.steps - self.resumed_at)
        since = f" from step {self.resumed_at} on" * bool(self.resumed_at)
        return (
            f"{self.rows} rows of {self.kind}{self._describe_unused()}, loss {self.loss}, "
            f"{self.parameters:,} parameters trained in {self.steps} steps: {self.seconds:.0f} s{since}, "
            f"{per_step:.2f} s a step, {self.peak_memory_bytes / 1e9:.1f} GB of memory at most"
        )

    def _describe_unused(self) -> str:
        notes = [
            f"{self.rows_per_epoch} of {self.rows} rows an epoch" * (self.rows_per_epoch < self.rows),
            f"{self.single_labels} labels have one item" * bool(self.single_labels),
            f"{self.skipped} bad rows left out" * bool(self.skipped),
        ]
        found = "; ".join(filter(None, notes))
        return f" ({found})" * bool(found)

    def _compared(self) -> list[tuple[str, str, str]]:
        return [(name, f"{value:.4f}", f"{self.after[name]:.4f}") for name, value in self.before.items()]


def _table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    cells = "".join(f"<th>{html.escape(str(name))}" for name in header)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}" for cell in row) for row in rows)
    return f"<table><tr>{cells}{lines}</table>"


def _plot(losses: Sequence[float]) -> str:
    """Return the curve of the loss as SVG: a line from step to step."""
    if len(losses) < 2:
        return "<p>One step has no curve.</p>"
    low, high = min(losses), max(losses)
    span = high - low or 1.0
    right, top, base = _WIDTH - 8, 10, _HEIGHT - _BOTTOM
    across = (right - _LEFT) / (len(losses) - 1)
    points = " ".join(
        f"{_LEFT + across * step:.1f},{base - (base - top) * (loss - low) / span:.1f}"
        for step, loss in enumerate(losses)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"><title>Loss from {losses[0]:.4g} to {losses[-1]:.4g}</title>'
        f'<path class="axis" d="M{_LEFT} {top}V{base}H{right}"/><polyline class="curve" points="{points}"/>'
        f'<text x="{_LEFT - 6}" y="{top + 8}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{_LEFT - 6}" y="{base}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">1</text>'
        f'<text x="{right}" y="{_HEIGHT - 8}" text-anchor="end">step {len(losses)}</text></svg>'
    )
