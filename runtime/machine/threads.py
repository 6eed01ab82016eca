"""How many threads this process may really use: what affinity mask and control groups leave to it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def available_threads(root: Path = _ROOT) -> int:
    """Returns the number of cores that affinity mask and container quota leave to this process, at least 1.

    A container that is given 2 of a host's 64 cores still sees 64 in ``os.cpu_count()``, and ONNX Runtime's own
    default starts a thread for each: https://github.com/microsoft/onnxruntime/issues/29510

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    return max(1, math.ceil(min(allowed_cores(), cpu_quota(root))))


def allowed_cores() -> int:
    """Returns the number of cores in this process's affinity mask."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cpu_quota(root: Path = _ROOT) -> float:
    """Returns the smallest CPU quota, in cores, of this process's control groups; infinite where none is set.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html, "cpu.max", and
    https://docs.kernel.org/scheduler/sched-bwc.html for version 1.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    return min((_quota(folder) for folder in control_groups(root, "cpu")), default=math.inf)


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yields the folders whose limits bind this process: its own control group's, and those above it.

    Where the container sees the host's path of its group and not its files, the mounted root alone is left.

    Args:
        root: Where ``proc`` and ``sys`` are.
        controller: ``cpu`` or ``memory``.
    """
    mount = root / "sys/fs/cgroup"
    yield from (mount, mount / controller)
    for line in read_or_empty(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = mount / controller if controllers else mount
        group = top / path.strip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top) and folder.is_dir())


def read_or_empty(path: Path) -> str:
    """Returns the text of a file of the kernel's, empty where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _quota(folder: Path) -> float:
    """Returns the quota of one control group in cores: of version 2, "200000 100000" or "max 100000" microseconds."""
    words = read_or_empty(folder / "cpu.max").split() or [
        read_or_empty(folder / "cpu.cfs_quota_us").strip(),
        read_or_empty(folder / "cpu.cfs_period_us").strip(),
    ]
    return int(words[0]) / int(words[1]) if all(word.isdigit() for word in words) else math.inf
