"""Steal time is read where the system reports it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.results.steal_time import CpuTime, read_cpu_time


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu  100 5 20 4000 300 1 4 70 9 2\ncpu0 1 1 1 1 1 1 1 1 1 1\n", CpuTime(70, 200)),
        ("cpu  100 5 20 4000\n", CpuTime(0, 0)),
        ("", CpuTime(0, 0)),
        (None, CpuTime(0, 0)),
    ],
    ids=["linux", "old kernel", "empty", "another system"],
)
def test_steal_time_is_read_where_the_system_reports_it(text: str | None, expected: CpuTime, tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    if text is not None:
        stat.write_text(text)
    assert read_cpu_time(stat) == expected
    assert read_cpu_time(stat).steal_share_since(expected) == 0
