"""CPU time that the host of a virtual machine gave to others: times grow by it, and say nothing of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MOST_STOLEN = 0.05  # of the CPU time that a turn asked for; one that lost more is taken again, with patience
_STAT = Path("/proc/stat")
_IDLE, _STOLEN, _COUNTED = (3, 4), 7, 8  # columns; those after them are part of the first two


@dataclass(frozen=True)
class CpuTime:
    """What the kernel has counted since it started, in ticks.

    Attributes:
        stolen: Of cores that had work to do, while the host ran something else on them.
        wanted: All time in which there was work to do, the stolen one included.
    """

    stolen: int
    wanted: int

    def stolen_since(self, before: CpuTime) -> float:
        """Returns the share that was stolen of what was wanted since then."""
        return (self.stolen - before.stolen) / max(1, self.wanted - before.wanted)


def read_cpu_time() -> CpuTime:
    """Returns what Linux has counted on all cores; other systems do not tell, and count as never robbed.

    Source: proc_stat(5), the line ``cpu``.
    """
    try:
        ticks = [int(word) for word in _STAT.read_text("ascii").split("\n", 1)[0].split()[1 : 1 + _COUNTED]]
    except (OSError, ValueError):
        ticks = []
    if len(ticks) < _COUNTED:
        return CpuTime(0, 0)
    return CpuTime(ticks[_STOLEN], sum(ticks) - sum(ticks[column] for column in _IDLE))
