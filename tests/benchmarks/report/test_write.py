"""Test that a report is written to files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.report.write import write_report
from benchmarks.results.schema import read_results
from runtime.errors import OutputError
from tests.benchmarks.report.samples import FULL, PRICES
from tests.benchmarks.samples import ARTIFACT, RESULTS, many_cases


def test_the_report_is_small(tmp_path: Path) -> None:
    artifacts = tuple(replace(ARTIFACT, name=f"toy-{n}") for n in range(8))
    cases = tuple(replace(case, artifact=artifact.name) for artifact in artifacts for case in many_cases())
    results = replace(RESULTS, artifacts=artifacts, cases=cases)
    assert len(cases) == 192
    page, text = write_report(results, tmp_path, ["html", "md"], PRICES)
    assert page.stat().st_size < 400_000
    assert text.stat().st_size < 65_536  # the limit of a comment on GitHub


def test_each_format_is_written_to_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    paths = write_report(FULL, folder, ["html", "md", "json"], PRICES)
    assert paths == [folder / "report.html", folder / "report.md", folder / "results.json"]
    assert sorted(folder.iterdir()) == sorted(paths)
    assert read_results(folder) == FULL
    assert "EUR" in paths[0].read_text("utf-8")


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot create"):
        write_report(RESULTS, tmp_path / "file" / "report", ["md"])
