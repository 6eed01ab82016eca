"""How many threads this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_threads(cgroup: Path = _CGROUP) -> int:
    """Returns the number of cores that affinity mask and container quota leave to this process, at least 1.

    A container that is given 2 of a host's 64 cores still sees 64 in ``os.cpu_count()``, and ONNX Runtime's own
    default starts a thread for each: https://github.com/microsoft/onnxruntime/issues/29510

    Args:
        cgroup: Where the control-group file system is mounted.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """Returns the control group's CPU quota in cores, infinite where none is set."""
    try:  # version 2: one file, "max 100000" or "200000 100000", in microseconds
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:  # version 1: two files, -1 for no quota
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return math.inf
    return math.inf if quota == "max" or int(quota) < 0 else int(quota) / int(period)
