"""What the host and the control groups leave to this process: cores, quota, memory."""

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
_UNLIMITED = 1 << 60  # version 1 writes "no limit" as the largest multiple of a page


@dataclass(frozen=True, kw_only=True)
class ThreadBudget:
    """How many threads one run gets, and what bounds them.

    Attributes:
        cores: Logical cores of the host.
        affinity: Cores that the affinity mask leaves to this process.
        quota: The control groups' CPU quota in cores, ``None`` where none is set.
        threads: What ``load`` uses by default.
        variables: Environment variables that are set and that people expect to bound threads or hide devices.
    """

    cores: int
    affinity: int
    quota: float | None
    threads: int
    variables: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory in bytes; ``None`` where the system does not tell, or sets no limit.

    Attributes:
        total: Of the host.
        available: That could be had without swapping.
        limit: The control groups' limit.
    """

    total: int | None
    available: int | None
    limit: int | None


def examine_threads(root: Path = Path("/")) -> ThreadBudget:
    """Returns the thread budget.

    Args:
        root: Where ``proc`` and ``sys`` are.
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
    """Returns the memory of the host and the control groups' limit.

    Args:
        root: Where ``proc`` and ``sys`` are.
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
    """Returns the memory limit of a control group in bytes."""
    text = (read_or_empty(folder / "memory.max") or read_or_empty(folder / "memory.limit_in_bytes")).strip()
    return int(text) if text.isdigit() else _UNLIMITED
