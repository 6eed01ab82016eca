"""A table as data, for the HTML page and the Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: Main text.
        aside: Smaller text after it, such as a confidence interval.
        mark: Warning after it, such as ``unstable``.
        code: Whether the text is code.
    """

    text: str
    aside: str = ""
    mark: str = ""
    code: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        title: Title.
        header: Names of the columns, with units.
        rows: Cells of each row.
        words: Number of columns, from the left, that hold words; the others hold figures.
        note: Explanation below the table; may be empty.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: int
    note: str

    def is_text(self, column: int) -> bool:
        """Tell whether a column holds words or code, which are aligned left."""
        return column < self.words or any(row[column].code for row in self.rows)


Column = tuple[str, Callable[[Item], Cell | str]]


def table(
    title: str, columns: Sequence[Column[Item]], items: Iterable[Item], *, words: int = 1, note: str = ""
) -> Table:
    """Return a table with a row per item, without the columns that are empty in every row.

    Args:
        title: Title.
        columns: Name of each column, and the function from an item to its cell.
        items: One item per row.
        words: Number of columns, from the left, that hold words.
        note: Explanation below the table; a table without rows has none.
    """
    found = [[content(item) for _, content in columns] for item in items]
    rows = [[Cell(text=each) if isinstance(each, str) else each for each in row] for row in found]
    kept = [n for n in range(len(columns)) if any(row[n].text for row in rows)]
    return Table(
        title=title,
        header=tuple(columns[n][0] for n in kept),
        rows=tuple(tuple(row[n] for n in kept) for row in rows),
        words=sum(n < words for n in kept),
        note=note if rows else "",
    )


def text_table(
    title: str, header: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 2, note: str = ""
) -> Table:
    """Return a table with the texts of ``rows``."""
    columns: list[Column[Sequence[str]]] = [(name, itemgetter(n)) for n, name in enumerate(header)]
    return table(title, columns, rows, words=words, note=note)
