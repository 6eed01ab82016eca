"""What the host and the control groups leave to this process: cores, quota, memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from runtime.doctor.report import Memory, ThreadBudget
from runtime.threads import available_threads

_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TOKENIZERS_PARALLELISM",
    "CUDA_VISIBLE_DEVICES",
)
_UNLIMITED = 1 << 60  # version 1 writes "no limit" as the largest multiple of a page


def examine_threads(root: Path = Path("/")) -> ThreadBudget:
    """Returns the thread budget.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    cores = os.cpu_count() or 1
    affinity = getattr(os, "sched_getaffinity", None)
    quotas = [_quota(folder) for folder in _control_groups(root, "cpu")]
    quota = min(quotas, default=math.inf)
    return ThreadBudget(
        cores=cores,
        affinity=len(affinity(0)) if affinity else cores,
        quota=quota if math.isfinite(quota) else None,
        threads=available_threads(),
        variables={name: os.environ[name] for name in _VARIABLES if name in os.environ},
    )


def examine_memory(root: Path = Path("/")) -> Memory:
    """Returns the memory of the host and the control groups' limit.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    limits = [_memory_limit(folder) for folder in _control_groups(root, "memory")]
    limit = min(limits, default=_UNLIMITED)
    lines = _text(root / "proc/meminfo").splitlines()
    sizes = {words[0]: int(words[1]) * 1024 for words in map(str.split, lines) if len(words) > 1}
    return Memory(
        total=sizes.get("MemTotal:"),
        available=sizes.get("MemAvailable:"),
        limit=limit if limit < _UNLIMITED else None,
    )


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yields the folders whose limits bind this process: its own control group's, and those above it.

    Where the container sees the host's path of its group and not its files, the mounted root alone is left.
    """
    mount = root / "sys/fs/cgroup"
    yield mount
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = mount / controller if controllers else mount
        group = top / path.strip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top) and folder.is_dir())


def _quota(folder: Path) -> float:
    """Returns the CPU quota of a control group in cores, infinite where it sets none."""
    words = _text(folder / "cpu.max").split() or [
        _text(folder / "cpu.cfs_quota_us").strip(),
        _text(folder / "cpu.cfs_period_us").strip(),
    ]
    return int(words[0]) / int(words[1]) if all(word.isdigit() for word in words) else math.inf


def _memory_limit(folder: Path) -> int:
    """Returns the memory limit of a control group in bytes."""
    text = (_text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes")).strip()
    return int(text) if text.isdigit() else _UNLIMITED


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
