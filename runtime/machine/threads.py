"""Count the cores that the affinity mask and the control groups leave to this process.

``root`` is the folder that holds ``proc`` and ``sys``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def available_threads(root: Path = _ROOT) -> int:
    """Return the number of cores that the affinity mask and the container quota leave to this process, at least 1.

    In a container with 2 of 64 cores, ``os.cpu_count()`` still returns 64. By default, ONNX Runtime starts a thread for
    each: https://github.com/microsoft/onnxruntime/issues/29510
    """
    return max(1, math.ceil(min(allowed_cores(), cpu_quota(root))))


def allowed_cores() -> int:
    """Return the number of cores in the affinity mask of this process."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cpu_quota(root: Path = _ROOT) -> float:
    """Return the smallest CPU quota of this process's control groups, in cores; infinite if there is none.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html, "cpu.max", and
    https://docs.kernel.org/scheduler/sched-bwc.html for version 1.
    """
    return min((_quota(folder) for folder in control_groups(root, "cpu")), default=math.inf)


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and of the groups above it, whose limits bind the process.

    A container may see the path of its group on the host, but not the group's files. Then only the mounted root counts.
    ``controller`` is ``cpu`` or ``memory``.
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
    """Return the text of a kernel file; empty if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _quota(folder: Path) -> float:
    """Return the quota of one control group in cores.

    Version 2 writes "200000 100000" or "max 100000", in microseconds; version 1 has a file for each of the two numbers.
    """
    words = read_or_empty(folder / "cpu.max").split() or [
        read_or_empty(folder / "cpu.cfs_quota_us").strip(),
        read_or_empty(folder / "cpu.cfs_period_us").strip(),
    ]
    return int(words[0]) / int(words[1]) if all(word.isdigit() for word in words) else math.inf
