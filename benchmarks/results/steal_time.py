"""Read steal time: CPU time that the host of a virtual machine gave to others. It makes measured times longer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MAX_STEAL = 0.05  # share of the CPU time that a turn asked for; a turn that lost more counts as disturbed
STAT_FILE = Path("/proc/stat")
_IDLE, _STEAL, _COUNTED = (3, 4), 7, 8  # columns; the later columns are part of the first two


@dataclass(frozen=True)
class CpuTime:
    """CPU time since the kernel started, in ticks."""

    steal: int  # time in which a core had work to do while the host ran something else on it.
    wanted: int  # all time in which there was work to do, steal time included.

    def steal_share_since(self, before: CpuTime) -> float:
        """Return steal time since ``before`` as a share of the wanted time."""
        return (self.steal - before.steal) / max(1, self.wanted - before.wanted)


def read_cpu_time(stat: Path = STAT_FILE) -> CpuTime:
    """Return the CPU time of all cores. Systems other than Linux do not report it; there it is 0.

    Source: proc_stat(5), the line ``cpu``.
    """
    try:
        ticks = [int(word) for word in stat.read_text("ascii").split("\n", 1)[0].split()[1 : 1 + _COUNTED]]
    except (OSError, ValueError):
        ticks = []
    if len(ticks) < _COUNTED:
        return CpuTime(0, 0)
    return CpuTime(ticks[_STEAL], sum(ticks) - sum(ticks[column] for column in _IDLE))
