"""Quota and memory limits are read from the control groups."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from runtime.machine.limits import (
    allow_open_files,
    examine_memory,
    examine_threads,
    read_peak_bytes,
    read_resident_bytes,
)


@pytest.mark.parametrize(
    ("files", "quota", "limit"),
    [
        ({}, None, None),
        ({"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
        ({"cpu.max": "150000 100000\n", "memory.max": "1073741824\n"}, 1.5, 1 << 30),
        ({"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n", "a/memory.max": "2048\n"}, 3.0, 2048),
        ({"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5, None),
        ({"cpu/a/cpu.cfs_quota_us": "200000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 2.0, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None, None),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None, None),
        ({"memory/memory.limit_in_bytes": "4096\n"}, None, 4096),
    ],
    ids=str,
)
def test_control_groups_are_read_up_to_the_root(
    tmp_path: Path, files: dict[str, str], quota: float | None, limit: int | None
) -> None:
    written = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    written["proc/self/cgroup"] = "4:memory:/not/mounted/here\n2:cpu,cpuacct:/a\n1:name=systemd:/x\n0::/a/b\n"
    written["proc/meminfo"] = "MemTotal:  16 kB\nHugePages_Total: 0\n"
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    memory = examine_memory(tmp_path)
    assert examine_threads(tmp_path).quota == quota
    assert (memory.total, memory.available, memory.limit) == (16 << 10, limit, limit)


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, 8 << 10),
        ({"memory.max": "max\n", "memory.current": "9000\n"}, 8 << 10),
        ({"memory.max": "6000\n"}, 6000),
        ({"memory.max": "6000\n", "memory.current": "5000\n", "memory.stat": "anon 1\ninactive_file 200\n"}, 1200),
        ({"memory.max": "6000\n", "a/memory.max": "3000\n", "a/memory.current": "4000\n"}, 0),
        ({"memory/memory.limit_in_bytes": "6000\n", "memory/memory.usage_in_bytes": "5000\n"}, 1000),
    ],
    ids=str,
)
def test_the_available_memory_is_the_least_of_host_and_groups(tmp_path: Path, files: dict[str, str], left: int) -> None:
    written = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    written |= {"proc/self/cgroup": "0::/a\n", "proc/meminfo": "MemAvailable:  8 kB\n"}
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert examine_memory(tmp_path).available == left


def test_a_system_without_proc_has_no_figures_and_no_error(tmp_path: Path) -> None:
    memory = examine_memory(tmp_path)
    assert (memory.total, memory.available, memory.limit) == (None, None, None)


def test_resident_memory_is_read_in_bytes(tmp_path: Path) -> None:
    assert read_resident_bytes(tmp_path) == 0
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Name: a\nVmHWM:\t  9 kB\nVmRSS:\t  5 kB\n")
    assert read_resident_bytes(tmp_path) == 5120


def test_the_peak_is_that_of_this_process(tmp_path: Path) -> None:
    if sys.platform != "win32":
        assert read_peak_bytes(tmp_path) > 2**20
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Name: x\nVmPeak:  900 kB\nVmHWM:   5 kB\n")
    assert read_peak_bytes(tmp_path) == 5 * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="Windows has no such limit, and macOS may refuse to raise it")
def test_a_process_may_open_as_many_files_as_the_system_allows() -> None:
    import resource

    soft, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1), hard))
        allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_budget_is_the_default_of_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 3}, raising=False)
    budget = examine_threads()
    assert (budget.cores, budget.affinity) == (64, 3)
    assert budget.threads <= 3
