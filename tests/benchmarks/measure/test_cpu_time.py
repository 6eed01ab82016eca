"""CPU time and memory are read where the system reports them. Nothing here is timed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import namedtuple
from typing import Any

import psutil
import pytest

from benchmarks.measure.cpu_time import CpuTime, cpu_seconds, read_cpu_time, resident_bytes

_LINUX = namedtuple("_LINUX", "user nice system idle iowait irq softirq steal guest guest_nice")
_MAC = namedtuple("_MAC", "user nice system idle")


@pytest.mark.parametrize(
    ("times", "expected"),
    [(_LINUX(100, 5, 20, 4000, 300, 1, 4, 70, 9, 2), CpuTime(70, 200)), (_MAC(100, 5, 20, 4000), CpuTime(0, 125))],
    ids=["linux", "another system"],
)
def test_steal_time_is_read_where_the_system_reports_it(
    times: Any, expected: CpuTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_times", lambda: times)
    assert read_cpu_time() == expected
    assert read_cpu_time().steal_share_since(expected) == 0
    assert read_cpu_time().steal_share_since(CpuTime(0, 0)) == expected.steal / expected.wanted


@pytest.mark.process
def test_processes_count_with_their_descendants() -> None:
    own = psutil.Process()
    with subprocess.Popen([sys.executable, "-c", "print(); input()"], stdin=-1, stdout=-1) as child:
        assert child.stdout
        child.stdout.readline()
        both, alone = resident_bytes(os.getpid()), own.memory_info().rss
        assert both is not None
        assert both > alone + 2**20
        assert resident_bytes(child.pid)
        assert (cpu_seconds(os.getpid()) or 0) > (cpu_seconds(child.pid) or 0) > 0
        child.communicate(b"\n")
    assert cpu_seconds(child.pid) is None
    assert resident_bytes(child.pid) is None
