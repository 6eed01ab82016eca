"""A table as data: what the page and the Markdown have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What stands at one place of a table.

    Attributes:
        text: What is read first.
        aside: What is printed smaller beside it, such as an interval.
        mark: A warning that belongs to it, such as ``unstable``.
        code: Whether it is to be typed as it stands.
    """

    text: str
    aside: str = ""
    mark: str = ""
    code: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        title: What it holds.
        header: Names of its columns, with their units.
        rows: Its cells.
        words: How many columns, from the left, hold words; the others hold figures.
        note: What has to be known to read it; may be empty.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: int = 1
    note: str = ""


def table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[Cell | str]], *, words: int = 1, note: str = ""
) -> Table:
    """Returns a table without the columns that are empty in every row; without rows there is no note either."""
    cells = [[Cell(text=cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    kept = [n for n in range(len(header)) if any(row[n].text for row in cells)]
    return Table(
        title=title,
        header=tuple(header[n] for n in kept),
        rows=tuple(tuple(row[n] for n in kept) for row in cells),
        words=sum(n < words for n in kept),
        note=note if rows else "",
    )
