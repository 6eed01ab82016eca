"""Read the CPU time and the resident memory of processes, on Linux."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from runtime.errors import UsageError

PROC = Path("/proc")


def check_linux() -> None:
    """Raise :class:`UsageError` on systems whose processes do not tell their resident memory."""
    statm = PROC / "self/statm"
    if not statm.exists():
        raise UsageError(f"resident memory is read from {statm}, which this system lacks; measure on Linux")


def cpu_seconds(pid: int, proc: Path = PROC) -> float | None:
    """Return the CPU time of a process and its descendants; ``None`` if it is gone, or the system is not Linux.

    Source: proc_pid_stat(5), the columns utime, stime, cutime and cstime.
    """
    found = [_read_stat(process, proc) for process in _tree(pid, proc)]
    ticks = [sum(map(int, columns[11:15])) for columns in found if columns]
    return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None


def resident_bytes(pid: int, proc: Path = PROC) -> int | None:
    """Return the resident memory of a process and its descendants; pages that they share count more than once."""
    pages = []
    for process in _tree(pid, proc):
        with contextlib.suppress(OSError):
            pages.append(int((proc / str(process) / "statm").read_text().split()[1]))
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") if pages else None


def _tree(pid: int, proc: Path) -> list[int]:
    """Return ``pid`` and the ids of its descendants."""
    parents: dict[int, list[int]] = {}
    for folder in proc.glob("[0-9]*"):
        if columns := _read_stat(int(folder.name), proc):
            parents.setdefault(int(columns[1]), []).append(int(folder.name))
    found = [pid]
    for process in found:
        found += parents.get(process, [])
    return found


def _read_stat(pid: int, proc: Path) -> list[str]:
    """Return the columns after the name of the command, which may hold spaces; none if the process is gone."""
    try:
        return (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
