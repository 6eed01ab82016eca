from __future__ import annotations

import pytest

from runtime import console


@pytest.mark.parametrize("cell", ["日本語", "ｆｕ", "🙂🙂", "e\u0301e\u0301xx", "👍\u200d👍", "abcd"])
def test_columns_are_as_wide_as_a_terminal_shows_them(cell: str) -> None:
    columns = {"日本語": 6, "ｆｕ": 4, "🙂🙂": 4, "e\u0301e\u0301xx": 4, "👍\u200d👍": 4, "abcd": 4}[cell]
    assert console.table(["a", "b"], [[cell, 1]]).splitlines() == [
        "a" + " " * (columns - 1) + "  b",
        "-" * columns + "  -",
        cell + "  1",
    ]
