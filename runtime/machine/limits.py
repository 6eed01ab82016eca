"""Read the cores, the CPU quota and the memory that the host and the control groups leave to this process."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.machine.threads import allowed_cores, available_threads, control_groups, cpu_quota, read_or_empty

_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TOKENIZERS_PARALLELISM",
    "CUDA_VISIBLE_DEVICES",
)
_UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as the largest multiple of a page


@dataclass(frozen=True, kw_only=True)
class ThreadBudget:
    """The number of threads of one run, and its bounds.

    Attributes:
        cores: Logical cores of the host.
        affinity: Cores in the affinity mask of this process.
        quota: CPU quota of the control groups, in cores; ``None`` for no quota.
        threads: Default number of threads of ``load``.
        variables: Environment variables that are set and that people expect to limit threads or hide devices.
    """

    cores: int
    affinity: int
    quota: float | None
    threads: int
    variables: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory in bytes; ``None`` if it is unknown, or if there is no limit.

    Attributes:
        total: Memory of the host.
        available: Memory that can be allocated without swapping.
        limit: Limit of the control groups.
    """

    total: int | None
    available: int | None
    limit: int | None


def examine_threads(root: Path = Path("/")) -> ThreadBudget:
    """Return the thread budget.

    Args:
        root: Folder that holds ``proc`` and ``sys``.
    """
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

    Args:
        root: Folder that holds ``proc`` and ``sys``.
    """
    limits = [_memory_limit(folder) for folder in control_groups(root, "memory")]
    limit = min(limits, default=_UNLIMITED)
    lines = read_or_empty(root / "proc/meminfo").splitlines()
    sizes = {words[0]: int(words[1]) * 1024 for words in map(str.split, lines) if len(words) > 1}
    return Memory(
        total=sizes.get("MemTotal:"),
        available=sizes.get("MemAvailable:"),
        limit=limit if limit < _UNLIMITED else None,
    )


def _memory_limit(folder: Path) -> int:
    """Return the memory limit of a control group in bytes."""
    text = (read_or_empty(folder / "memory.max") or read_or_empty(folder / "memory.limit_in_bytes")).strip()
    return int(text) if text.isdigit() else _UNLIMITED
