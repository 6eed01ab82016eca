"""Read the CPU time of the machine and of processes, and their memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import psutil

_TICK_S = 0.01  # resolution of the kernel's counts
_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")  # not every system counts all of them

T = TypeVar("T")


@dataclass(frozen=True)
class CpuTime:
    """CPU time of all cores since the kernel started, in seconds."""

    # time in which a core had work to do while the host of a virtual machine ran something else on it; 0 if the system
    # does not report it. It makes measured times longer.
    steal: float
    wanted: float  # all time in which there was work to do, steal time included.

    def steal_share_since(self, before: CpuTime) -> float:
        """Return steal time since ``before`` as a share of the wanted time."""
        return (self.steal - before.steal) / max(_TICK_S, self.wanted - before.wanted)


def read_cpu_time() -> CpuTime:
    """Return the CPU time of all cores."""
    times = psutil.cpu_times()._asdict()
    return CpuTime(times.get("steal", 0.0), sum(times.get(name, 0.0) for name in _BUSY))


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU time of a process and its descendants; ``None`` if it is gone."""
    times = [
        each.user + each.system + each.children_user + each.children_system
        for each in _of_tree(pid, lambda process: process.cpu_times())
    ]
    return sum(times) if times else None


def resident_bytes(pid: int) -> int | None:
    """Return the resident memory of a process and its descendants; pages that they share count more than once."""
    sizes = [memory.rss for memory in _of_tree(pid, lambda process: process.memory_info())]
    return sum(sizes) if sizes else None


def _of_tree(pid: int, read: Callable[[psutil.Process], T]) -> Iterator[T]:
    """Yield what ``read`` returns for a process and its descendants, without those that are gone."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                yield read(each)
