"""Write docs/tried.md from the rows that tests added to a file; see tests/exporters/families/tried.py."""

from __future__ import annotations

import json
import math
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "tried.md"
INTRODUCTION = """# What was tried

After this page you know which families of models and which of their settings can be exported.

Tests write a tiny checkpoint of each family in the layout of its own library, and export it. They compare the vectors
with those of the library: each item alone, and in batches. The items are not those of
[the export's own check](parity.md). There are two outcomes:

- **equal**: no value differs by more than 1e-4 of the largest value. The last column is the worst difference, rounded
  up to a power of ten.
- **refused**: the export ends with an error that names the cause.

`make tried` runs the tests again and writes this page.
"""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows in the order of the page; of two with the same name, the later."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    latest = {(row["group"], row["name"]): row for row in rows}
    return [latest[key] for key in sorted(latest)]


def render(rows: list[dict[str, Any]]) -> str:
    """Return the page."""
    parts = [INTRODUCTION]
    for group, members in groupby(rows, key=lambda row: str(row["group"])):
        parts += [
            f"## {group}",
            "\n".join([_line("name", "library", "outcome", "worst difference"), "|---|---|---|---|"]),
        ]
        parts[-1] += "".join(
            "\n" + _line(row["name"], row["library"], row["outcome"], _format_worst(row["worst"])) for row in members
        )
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _format_worst(worst: float | None) -> str:
    """Round up to a power of ten, so that the page differs only where a difference is of another size."""
    if worst is None:
        return ""
    return "0" if worst == 0 else f"1e{math.ceil(math.log10(worst)):+03d}".replace("+", "")


if __name__ == "__main__":
    PAGE.write_text(render(read_rows(Path(sys.argv[1]))), "utf-8")
