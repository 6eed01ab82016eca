"""The CPU time and the memory of processes are read from files. Nothing here is timed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.scenarios.process_usage import cpu_seconds, resident_bytes


def write_process(proc: Path, pid: int, parent: int, ticks: tuple[int, int], pages: int) -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    user, system = ticks
    (folder / "stat").write_text(f"{pid} (a name) with) S {parent} {'0 ' * 9}{user} {system} 5 5 20 0")
    (folder / "statm").write_text(f"900 {pages} 0 0 0 0 0")


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="needs POSIX")
def test_processes_count_with_their_descendants(tmp_path: Path) -> None:
    write_process(tmp_path, 10, 1, (100, 20), 7)
    write_process(tmp_path, 11, 10, (30, 0), 2)
    write_process(tmp_path, 12, 11, (4, 0), 1)
    write_process(tmp_path, 13, 1, (1000, 0), 50)  # another one
    ticks = os.sysconf("SC_CLK_TCK")
    assert cpu_seconds(10, tmp_path) == pytest.approx((100 + 20 + 30 + 4 + 3 * 10) / ticks)
    assert resident_bytes(10, tmp_path) == 10 * os.sysconf("SC_PAGE_SIZE")
    assert cpu_seconds(99, tmp_path) is None
    assert resident_bytes(99, tmp_path) is None
