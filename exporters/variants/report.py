"""What became of variants, as a table: what was fused, how large, how fast, how near."""

from __future__ import annotations

from collections.abc import Sequence

from exporters.variants.build import Outcome
from runtime import console
from runtime.artifact.parity import near_one

_HEADER = (
    "tower",
    "variant",
    "nodes",
    "fused",
    "MB",
    "speed",
    "min cosine",
    "neighbours",
    "in a batch",
    "in float",
)
_SLOWER = 0.95  # times as fast, above which it may be noise


def describe_outcomes(outcomes: Sequence[Outcome]) -> str:
    """Returns a table with a row before and after for each variant, and a line for each that was not made."""
    rows: list[list[object]] = []
    towers: set[str] = set()
    for outcome in outcomes:
        if outcome.tower not in towers:
            towers.add(outcome.tower)
            before = outcome.before
            rows.append([outcome.tower, "fp32", before.nodes, "", f"{before.size_bytes / 1e6:.1f}", "1.00x", *[""] * 4])
        if outcome.variant is not None:
            rows.append([outcome.tower, outcome.name, *_cells(outcome)])
    left_out = [f"{outcome.tower} {outcome.name}: {outcome.reason}" for outcome in outcomes if not outcome.variant]
    slower = [
        f"{outcome.tower} {outcome.name} is slower than fp32 on this CPU; `python -m runtime tune` finds what is "
        "fastest on a machine, and load takes it there"
        for outcome in outcomes
        if outcome.speedup and outcome.speedup < _SLOWER
    ]
    return "\n".join([console.table(_HEADER, rows), *left_out, *slower])


def _cells(outcome: Outcome) -> list[object]:
    after, variant = outcome.after, outcome.variant
    if after is None or variant is None:
        return []
    fused = ", ".join(f"{count} {name.rpartition(':')[2]}" for name, count in sorted(after.foreign.items()))
    parity = variant.parity
    return [
        after.nodes,
        fused or "-",
        f"{after.size_bytes / 1e6:.1f}",
        f"{outcome.speedup:.2f}x" if outcome.speedup else "-",
        near_one(parity.min_cosine),
        f"{parity.neighbour_overlap:.1%}",
        near_one(parity.batch_cosine),
        len(variant.float_nodes),
    ]
