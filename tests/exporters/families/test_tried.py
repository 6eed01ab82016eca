"""The page of what was tried: its rows, and a test's outcome that differs from them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.exporters.families import tried
from tests.paths import ROOT


def test_rows_become_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, page = tmp_path / "rows.jsonl", tmp_path / "tried.md"
    monkeypatch.setattr(tried, "PAGE", page)
    with monkeypatch.context() as writing:
        writing.setenv(tried.ROWS, str(rows))
        tried.record("Texts", "b", "equal", 3e-7, library="a library")
        tried.record("Texts", "a", "refused: too odd", library="a library")
        tried.record("Images", "c", "equal", 0.0, library="another")
        tried.record("Texts", "b", "equal", 4e-6, library="a library")
    table = runpy.run_path(str(ROOT / ".ci/tried_table.py"))
    page.write_text(table["render"](table["read_rows"](rows)), "utf-8")
    assert "| b | a library | equal | 1e-05 |" in page.read_text("utf-8")
    assert tried.read_page("Texts") == {"a": "refused: too odd", "b": "equal"}
    assert tried.read_page("Images") == {"c": "equal"}
    tried.record("Texts", "b", "equal", 2e-5, library="a library")
    with pytest.raises(AssertionError, match="make tried"):
        tried.record("Texts", "a", "equal", 1e-7, library="a library")
    with pytest.raises(AssertionError, match="None"):
        tried.record("Texts", "new", "equal", 1e-7, library="a library")
