"""Describe new variants in a table: fused operators, size, speed and accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from exporters.graph.statistics import GraphStatistics
from exporters.variants.builder import VariantOutcome
from runtime import console
from runtime.artifact.parity import format_cosine
from runtime.artifact.variants import Variant

_GRAPH_HEADER = ("tower", "variant", "nodes", "fused operators", "MB", "speedup")
_PARITY_HEADER = ("min cosine", "same neighbours", "batch cosine", "fp32 nodes")
_SLOWER = 0.95  # a speedup between this and 1 may be noise


def describe_outcomes(outcomes: Sequence[VariantOutcome]) -> str:
    """Return a table with a row per tower and per variant, and a line for each variant that was not written."""
    rows = list[list[object]]()
    lines = [f"{outcome.tower} {outcome.name}: {outcome.reason}" for outcome in outcomes if not outcome.variant]
    for outcome in outcomes:
        if not any(row[0] == outcome.tower for row in rows):
            size = f"{outcome.before.size_bytes / 1e6:.1f}"
            rows.append([outcome.tower, "fp32", outcome.before.nodes, "", size, "1.00x", *[""] * len(_PARITY_HEADER)])
        if outcome.variant and outcome.after:
            rows.append([outcome.tower, outcome.name, *_cells(outcome.variant, outcome.after, outcome.speedup)])
        if outcome.search:
            lines.append(f"{outcome.tower} {outcome.name}: {outcome.search.describe()}")
        if outcome.speedup and outcome.speedup < _SLOWER:
            lines.append(
                f"{outcome.tower} {outcome.name} is slower than fp32 on this CPU; `python -m runtime tune` measures "
                "all variants on a machine, and `load` then uses the fastest"
            )
    return "\n".join([console.table([*_GRAPH_HEADER, *_PARITY_HEADER], rows), *lines])


def _cells(variant: Variant, graph: GraphStatistics, speedup: float | None) -> list[object]:
    fused = ", ".join(f"{count} {name.rpartition(':')[2]}" for name, count in sorted(graph.contrib_operators.items()))
    size, ratio = f"{graph.size_bytes / 1e6:.1f}", f"{speedup:.2f}x" if speedup else "-"
    min_cosine, batch_cosine = format_cosine(variant.parity.min_cosine), format_cosine(variant.parity.batch_cosine)
    overlap = f"{variant.parity.neighbour_overlap:.1%}"
    return [graph.nodes, fused or "-", size, ratio, min_cosine, overlap, batch_cosine, len(variant.float_nodes)]
