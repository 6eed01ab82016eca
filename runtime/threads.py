"""How many threads this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

_CGROUP = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def available_threads(cgroup: Path = _CGROUP, membership: Path = _MEMBERSHIP) -> int:
    """Returns the number of cores that affinity mask and container quota leave to this process, at least 1.

    A container that is given 2 of a host's 64 cores still sees 64 in ``os.cpu_count()``, and ONNX Runtime's own
    default starts a thread for each: https://github.com/microsoft/onnxruntime/issues/29510

    Args:
        cgroup: Where the control-group file system is mounted.
        membership: The file that says to which groups this process belongs.
    """
    return max(1, math.ceil(min(allowed_cores(), cpu_quota(cgroup, membership))))


def allowed_cores() -> int:
    """Returns the number of cores in this process's affinity mask."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cpu_quota(cgroup: Path = _CGROUP, membership: Path = _MEMBERSHIP) -> float:
    """Returns the smallest CPU quota, in cores, of this process's control group and those above it; infinite if none.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html, "cpu.max", and
    https://docs.kernel.org/scheduler/sched-bwc.html for version 1.
    """
    version_1, version_2 = _groups(membership)
    quotas = [_quota_2(cgroup / group) for group in _with_parents(version_2)]
    quotas += [_quota_1(cgroup / "cpu" / group) for group in _with_parents(version_1)]
    return min(quotas)


def _groups(membership: Path) -> tuple[PurePosixPath, PurePosixPath]:
    """Returns this process's groups of version 1 (that of the CPU) and 2, relative to where each is mounted."""
    version_1 = version_2 = PurePosixPath()
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            version_2 = PurePosixPath(group.lstrip("/"))
        elif "cpu" in controllers.split(","):
            version_1 = PurePosixPath(group.lstrip("/"))
    return version_1, version_2


def _with_parents(group: PurePosixPath) -> tuple[PurePosixPath, ...]:
    return (group, *group.parents)


def _quota_2(folder: Path) -> float:
    try:  # one file, "max 100000" or "200000 100000", in microseconds
        quota, period = (folder / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


def _quota_1(folder: Path) -> float:
    try:  # two files, -1 for no quota
        quota, period = (int((folder / name).read_text()) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        return math.inf if quota < 0 else quota / period
    except (OSError, ValueError):
        return math.inf
