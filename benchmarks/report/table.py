"""A table as data, for the HTML page and the Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import TypeVar

from benchmarks.report.format import NONE

Item = TypeVar("Item")
Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table."""

    text: str
    aside: str = ""  # smaller text after it, such as a confidence interval.
    mark: str = ""  # warning after it, such as `unstable`.
    code: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table."""

    title: str
    header: tuple[str, ...]  # names of the columns, with units.
    rows: tuple[tuple[Cell, ...], ...]
    words: int  # number of columns, from the left, that hold words; the others hold figures.
    note: str  # explanation below the table; may be empty.

    def is_text(self, column: int) -> bool:
        """Tell whether a column holds words or code, which are aligned left."""
        return column < self.words or any(row[column].code for row in self.rows)


Column = tuple[str, Callable[[Item], Cell | str]]  # the name, and the function from an item to its cell


def table(
    title: str, columns: Sequence[Column[Item]], items: Iterable[Item], *, words: int = 1, note: str = ""
) -> Table:
    """Return a table with a row per item, without the columns that are empty in every row.

    The first ``words`` columns hold words. A table without rows has no note.
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


def lift(columns: Iterable[Column[Part]], part_of: Callable[[Item], Part | None]) -> list[Column[Item]]:
    """Return columns that show a part of an item, with a dash where ``part_of`` returns ``None``."""

    def show(content: Callable[[Part], Cell | str], item: Item) -> Cell | str:
        part = part_of(item)
        return NONE if part is None else content(part)

    return [(name, partial(show, content)) for name, content in columns]


def text_table(
    title: str, header: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 2, note: str = ""
) -> Table:
    """Return a table with the texts of ``rows``."""
    columns: list[Column[Sequence[str]]] = [(name, itemgetter(n)) for n, name in enumerate(header)]
    return table(title, columns, rows, words=words, note=note)
