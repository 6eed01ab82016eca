"""Read text files: ``.txt`` and standard input with an item per line, and ``.jsonl`` with an object per line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

from runtime.errors import UsageError
from runtime.jobs.items import SourceItem, Unreadable, listed_item

Line: TypeAlias = tuple[str, str | Unreadable]  # its place and its text
BLANKS = " \t\r\n"  # JSON's whitespace
_BLOCK_BYTES = 1 << 20
_COUNTED_BYTES = 4 << 30  # counting takes a second or two; a larger file gets a progress bar without a total


def count_lines(path: str) -> int | None:
    """Return the number of lines, including an unterminated last one; ``None`` for a file too large to count.

    Raises:
        UsageError: The file cannot be read.
    """
    lines, last = 0, b"\n"
    try:
        with Path(path).open("rb") as file:
            if Path(path).stat().st_size > _COUNTED_BYTES:
                return None
            for block in iter(partial(file.read, _BLOCK_BYTES), b""):
                lines, last = lines + block.count(b"\n"), block[-1:]
    except OSError as exc:
        raise UsageError(f"{path} cannot be read ({exc.strerror}); check its permissions") from exc
    return lines + (last != b"\n")


def read_file_lines(path: str) -> Iterator[Line]:
    """Yield the lines of the file at ``path`` as :func:`read_lines` does."""
    with Path(path).open("rb") as file:
        yield from read_lines(file, path)


def read_lines(lines: Iterable[bytes], name: str, first: int = 1) -> Iterator[Line]:
    """Yield each line with its place, ``name:number``, without its line ending (LF or CRLF) and without a BOM.

    A line that is not UTF-8 is :class:`Unreadable`; the other lines are not affected.

    Args:
        lines: The lines as bytes.
        name: Name of the file.
        first: Number of the first line.

    Raises:
        UsageError: The file is UTF-16.
    """
    for number, line in enumerate(lines, first):
        if number == 1:
            refuse_utf16(line, name)
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            text: str | Unreadable = line.removesuffix(b"\n").removesuffix(b"\r").decode()
        except UnicodeDecodeError as exc:
            text = Unreadable(f"the line is not UTF-8 ({exc.reason} at byte {exc.start + 1}); convert the file")
        yield f"{name}:{number}", text


def refuse_utf16(start: bytes, name: str) -> None:
    """Raise :class:`UsageError` if the file ``name``, which begins with ``start``, is UTF-16."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UsageError(f"{name} is UTF-16, but UTF-8 is expected; convert it: iconv -f UTF-16 -t UTF-8")


def parse_lines(lines: Iterable[Line], *, kind: str, column: str | None = None) -> Iterator[SourceItem]:
    """Yield the item of each line, as both job engines understand it.

    Blank lines are skipped, except in a ``.txt`` of texts: there they are empty texts, so that rows keep the numbers of
    lines.

    Args:
        lines: The lines of a file.
        kind: Kind of item: ``text``, ``image`` or ``mesh``. A line names the file of an image or mesh.
        column: Key of the item in JSON objects, for ``.jsonl``; ``None`` for ``.txt``.
    """
    for place, line in lines:
        if isinstance(line, str) and (column is not None or kind != "text"):
            if not line.strip(BLANKS):
                continue
            if column is not None:
                line = _find_string(line, column)
        yield listed_item(line, kind, place)


def _find_string(line: str, column: str) -> str | Unreadable:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as exc:
        return Unreadable(f"the line is not JSON ({exc})")
    if not isinstance(document, dict):
        found = f"the line is of type {type(document).__name__}"
        return Unreadable(f'{found}, but an object is expected: {{"{column}": ...}}')
    if column not in document:
        return Unreadable(f"there is no {column!r} among {', '.join(map(repr, document)) or 'nothing'}; see --column")
    value = document[column]
    if not isinstance(value, str):
        return Unreadable(f"{column!r} is of type {type(value).__name__}, not a string")
    return value
