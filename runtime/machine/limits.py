"""Read the cores, the CPU quota and the memory that the host and the control groups leave to this process.

``root`` is the folder that holds ``proc`` and ``sys``.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runtime.machine.threads import allowed_cores, available_threads, control_groups, cpu_quota, read_or_empty

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_VARIABLES = (*_THREAD_VARIABLES, "TOKENIZERS_PARALLELISM", "CUDA_VISIBLE_DEVICES")
_UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as the largest multiple of a page


@dataclass(frozen=True, kw_only=True)
class ThreadBudget:
    """The number of threads of one run, and its bounds."""

    cores: int  # logical cores of the host
    affinity: int  # cores in the affinity mask of this process
    quota: float | None  # CPU quota of the control groups, in cores; ``None`` for no quota
    threads: int  # the default number of ``load``
    variables: Mapping[str, str]  # those set, of the variables that people expect to limit threads or hide GPUs


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory in bytes; ``None`` if it is unknown, or if there is no limit."""

    total: int | None  # memory of the host
    available: int | None  # that this process can still allocate, by the host and all control groups
    limit: int | None  # limit of the control groups


def examine_threads(root: Path = Path("/")) -> ThreadBudget:
    """Return the thread budget."""
    quota = cpu_quota(root)
    return ThreadBudget(
        cores=os.cpu_count() or 1,
        affinity=allowed_cores(),
        quota=quota if math.isfinite(quota) else None,
        threads=available_threads(root),
        variables={name: os.environ[name] for name in _VARIABLES if name in os.environ},
    )


def examine_memory(root: Path = Path("/")) -> Memory:
    """Return the memory of the host and the limit of the control groups.

    Pages of files that a control group can drop count as available.
    """
    groups = [*control_groups(root, "memory")]
    limit = min(map(_memory_limit, groups), default=_UNLIMITED)
    lines = read_or_empty(root / "proc/meminfo").splitlines()
    sizes = {words[0]: int(words[1]) * 1024 for words in map(str.split, lines) if len(words) > 1}
    rooms = (sizes.get("MemAvailable:"), *map(_group_room, groups))
    return Memory(
        total=sizes.get("MemTotal:"),
        available=min((room for room in rooms if room is not None), default=None),
        limit=limit if limit < _UNLIMITED else None,
    )


def _group_room(folder: Path) -> int | None:
    limit = _memory_limit(folder)
    used = (read_or_empty(folder / "memory.current") or read_or_empty(folder / "memory.usage_in_bytes")).strip()
    if limit >= _UNLIMITED or not used.isdigit():
        return limit if limit < _UNLIMITED else None
    words = dict(line.split()[:2] for line in read_or_empty(folder / "memory.stat").splitlines())
    return max(0, limit - int(used) + int(words.get("total_inactive_file", words.get("inactive_file", 0))))


def _memory_limit(folder: Path) -> int:
    """Return the memory limit of a control group in bytes."""
    text = (read_or_empty(folder / "memory.max") or read_or_empty(folder / "memory.limit_in_bytes")).strip()
    return int(text) if text.isdigit() else _UNLIMITED


def read_resident_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this process uses now; 0 where there is no ``proc``."""
    return _status_bytes(root, "VmRSS:")


def read_peak_bytes(root: Path = Path("/")) -> int:
    """Return the largest memory that this process has used; 0 on Windows.

    On Linux it comes from ``/proc``, because ``getrusage`` includes memory that the parent held when it forked.
    """
    peak = _status_bytes(root, "VmHWM:")
    if peak or sys.platform == "win32":
        return peak
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def allow_open_files() -> None:
    """Let this process open as many files as the system allows: shells and systemd begin with 1,024.

    A server without a free one resets new connections. Source: https://0pointer.net/blog/file-descriptor-limits.html
    """
    if sys.platform == "win32":
        return
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):  # macOS takes no infinite limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _status_bytes(root: Path, name: str) -> int:
    lines = read_or_empty(root / "proc/self/status").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
