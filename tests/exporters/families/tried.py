"""The record of what was tried: each test adds its row, and ``make tried`` makes a page of the rows."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.paths import ROOT

PAGE = ROOT / "docs" / "tried.md"
ROWS = "TRIED_ROWS"  # environment variable: the file to which rows are added


def record(group: str, name: str, outcome: str, worst: float | None = None, *, library: str) -> None:
    """Check an outcome against the page; with ``TRIED_ROWS`` in the environment, add it to that file instead.

    Args:
        group: Section of the page.
        name: The family or setting.
        outcome: ``equal``, or ``refused:`` and a reason.
        worst: Largest difference from the library, as a share of the largest value.
        library: Library that gave the reference.

    Raises:
        AssertionError: The page says something else.
    """
    if path := os.environ.get(ROWS):
        row = {"group": group, "name": name, "outcome": outcome, "worst": worst, "library": library}
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return
    on_page = read_page(group).get(name)
    assert on_page == outcome, f"docs/tried.md says of {name}: {on_page}; run `make tried`"


def read_page(group: str) -> dict[str, str]:
    """Return the outcomes that a section of the page states, by name."""
    _, _, section = PAGE.read_text("utf-8").partition(f"\n## {group}\n")
    lines = section.partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {name: outcome for name, _, outcome, _ in rows[1:]}
