"""Describe new variants in a table: fused operators, size, speed and accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from exporters.variants.builder import VariantOutcome
from runtime import console
from runtime.artifact.parity import format_cosine

_HEADER = (
    "tower",
    "variant",
    "nodes",
    "fused operators",
    "MB",
    "speedup",
    "min cosine",
    "same neighbours",
    "batch cosine",
    "fp32 nodes",
)
_SLOWER = 0.95  # a speedup between this and 1 may be noise


def describe_outcomes(outcomes: Sequence[VariantOutcome]) -> str:
    """Return a table with a row per tower and per variant, and a line for each variant that was not written."""
    rows: list[list[object]] = []
    towers: set[str] = set()
    for outcome in outcomes:
        if outcome.tower not in towers:
            towers.add(outcome.tower)
            before = outcome.before
            rows.append([outcome.tower, "fp32", before.nodes, "", f"{before.size_bytes / 1e6:.1f}", "1.00x", *[""] * 4])
        if outcome.variant is not None:
            rows.append([outcome.tower, outcome.name, *_cells(outcome)])
    not_written = [f"{outcome.tower} {outcome.name}: {outcome.reason}" for outcome in outcomes if not outcome.variant]
    slower = [
        f"{outcome.tower} {outcome.name} is slower than fp32 on this CPU; `python -m runtime tune` measures all "
        "variants on a machine, and `load` then uses the fastest"
        for outcome in outcomes
        if outcome.speedup and outcome.speedup < _SLOWER
    ]
    return "\n".join([console.table(_HEADER, rows), *not_written, *slower])


def _cells(outcome: VariantOutcome) -> list[object]:
    after, variant = outcome.after, outcome.variant
    if after is None or variant is None:
        return []
    fused = ", ".join(f"{count} {name.rpartition(':')[2]}" for name, count in sorted(after.contrib_operators.items()))
    parity = variant.parity
    return [
        after.nodes,
        fused or "-",
        f"{after.size_bytes / 1e6:.1f}",
        f"{outcome.speedup:.2f}x" if outcome.speedup else "-",
        format_cosine(parity.min_cosine),
        f"{parity.neighbour_overlap:.1%}",
        format_cosine(parity.batch_cosine),
        len(variant.float_nodes),
    ]
