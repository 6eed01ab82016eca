"""Read one column of a ``.csv`` or ``.tsv`` file whose first row has the names of the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import UsageError
from runtime.jobs.items import SourceItem, Unreadable, listed_item
from runtime.jobs.text_files import refuse_utf16

if TYPE_CHECKING:
    from _csv import Reader

CSV_SUFFIXES = (".csv", ".tsv")
_FIELD_CHARACTERS = 1 << 30  # the default of csv, 131072, is less than some texts have


def count_csv_rows(path: str, column: str) -> int:
    """Check that a file has ``column``, and return its number of rows without the header and blank lines.

    Raises:
        UsageError: The file cannot be read, or its header has not exactly one such column.
    """
    with open_csv(path) as reader:
        _find_column(next(reader, []), path, column)
        return sum(1 for row in reader if row)


def read_csv_column(path: str, column: str, kind: str) -> Iterator[SourceItem]:
    """Yield the item of each row. Its place is ``path:line``, the line where the row ends. Blank lines are skipped.

    Raises:
        UsageError: The file cannot be read.
    """
    with open_csv(path) as reader:
        header = next(reader, [])
        at = _find_column(header, path, column)
        for row in reader:
            if row:
                yield listed_item(_read_field(row, at, header), kind, f"{path}:{reader.line_num}")


@contextmanager
def open_csv(path: str) -> Iterator[Reader]:
    """Yield a reader of all rows, the header included. Bytes that are not UTF-8 become lone surrogates.

    Raises:
        UsageError: The file cannot be read, is UTF-16, or has a quote that is not closed.
    """
    csv.field_size_limit(_FIELD_CHARACTERS)
    dialect = csv.excel_tab if path.lower().endswith(".tsv") else csv.excel
    try:
        with Path(path).open("rb") as file:
            refuse_utf16(file.read(2), path)
        with Path(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, dialect, strict=True)  # else a quote that is not closed takes the rest in
            try:
                yield reader
            except csv.Error as exc:
                raise UsageError(f"{path} is damaged at line {reader.line_num} ({exc}); write it again") from exc
    except OSError as exc:
        raise UsageError(f"{path} cannot be read ({exc.strerror}); check its permissions") from exc


def _find_column(header: list[str], path: str, column: str) -> int:
    if header.count(column) == 1:
        return header.index(column)
    if column in header:
        raise UsageError(f"{path} has {header.count(column)} columns {column!r}; rename all but one")
    names = ", ".join(header) or "nothing"
    raise UsageError(
        f"{path} has no column {column!r} in its first row, only {names:.200}; choose one of these with --column"
    )


def _read_field(row: list[str], at: int, header: list[str]) -> str | Unreadable:
    if at >= len(row):
        return Unreadable(f"the row has {len(row)} fields, and {header[at]!r} is field {at + 1}")
    if len(row) > len(header):  # which of them is the column cannot be known
        found = f"the row has {len(row)} fields, and the header has {len(header)}"
        return Unreadable(f"{found}; put quotes around a field that holds the separator, or name every column")
    try:
        row[at].encode()
    except UnicodeEncodeError:  # an escaped byte
        return Unreadable("the field is not UTF-8; convert the file")
    return row[at]
