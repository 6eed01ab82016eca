"""Compare a case with the least time that the machine's peak rates allow.

Source: Williams, Waterman and Patterson, Roofline: an insightful visual performance model, CACM 52(4), 2009,
https://doi.org/10.1145/1498765.1498785
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.results.schema import Case, Ceilings, Work


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """A case and the least time that it could take."""

    intensity: float  # operations per byte that has to be moved.
    ops_per_s: float  # operations per second that were reached.
    attainable_ms: float  # least possible time of a call.
    share: float  # `attainable_ms` as a share of the median time.
    bound: Literal["arithmetic", "memory"]


def find_roofline(case: Case, p50_ms: float, ceilings: Ceilings | None) -> Roofline | str:
    """Return the position of ``case`` under the roofline, or the reason why it is unknown."""
    if case.work is None:
        return "its operations were not counted"
    if ceilings is None:
        return "the peak rates of the machine were not measured"
    peak = peak_ops_per_s(ceilings, case.device, case.precision)
    bandwidth = ceilings.read_bytes_per_s.get(case.device)
    if not peak or not bandwidth:
        return f"no peak rate of {case.precision if not peak else 'memory'} was measured on {case.device}"
    return _compute(case.work, p50_ms, peak, bandwidth)


def peak_ops_per_s(ceilings: Ceilings, device: str, precision: str) -> float | None:
    """Return the highest rate that any engine reached, in operations per second; ``None`` if none was measured."""
    reached = [c.ops_per_s for c in ceilings.products if (c.device, c.precision) == (device, precision)]
    return max(reached, default=None)


def _compute(work: Work, p50_ms: float, peak: float, bandwidth: float) -> Roofline:
    moved = work.read_bytes + work.written_bytes
    arithmetic_ms, memory_ms = 1000 * work.operations / peak, 1000 * moved / bandwidth
    attainable_ms = max(arithmetic_ms, memory_ms)
    return Roofline(
        intensity=work.operations / max(1, moved),
        ops_per_s=1000 * work.operations / p50_ms,
        attainable_ms=attainable_ms,
        share=attainable_ms / p50_ms,
        bound="arithmetic" if arithmetic_ms >= memory_ms else "memory",
    )
