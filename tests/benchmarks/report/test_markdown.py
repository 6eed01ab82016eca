"""Test that the Markdown of a report has whole tables, whatever the names are."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.report.write import write_report
from tests.benchmarks.report.reading import columns
from tests.benchmarks.report.samples import PRICES, markdown_of, nasty


def test_hostile_names_are_escaped_in_the_markdown(tmp_path: Path) -> None:
    text = markdown_of(nasty(), None)
    assert "<script" not in text
    assert "[a](" not in text.replace("\\[", "")
    for header, rule in re.findall(r"^(\|.*\|)\n(\|[- :|]+\|)$", text, re.M):
        assert columns(header) == columns(rule)
    rows = [line for line in text.splitlines() if "alert" in line and line.startswith("|")]
    assert rows
    assert all("\\`tick\\`" in row for row in rows)
    assert [path.name for path in write_report(nasty(), tmp_path, ["html", "md"])] == ["report.html", "report.md"]


def test_markdown_rows_have_as_many_columns_as_their_header() -> None:
    blocks = re.findall(r"(?:^\|.*\|\n)+", markdown_of(nasty(), PRICES), re.M)
    assert blocks
    for block in blocks:
        assert len({columns(line) for line in block.splitlines()}) == 1
