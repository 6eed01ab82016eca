"""Files of lines: ``.txt`` and standard input, an item on each, and ``.jsonl``, an object on each."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

from runtime.errors import UsageError
from runtime.jobs.items import Unreadable

Cell: TypeAlias = tuple[str, str | Unreadable]  # its place, and the string there
BLANKS = " \t\r\n"  # JSON's
_BLOCK = 1 << 20
_COUNTED_BYTES = 4 << 30  # a second or two of reading; beyond it a bar does without the time left


def count_lines(path: str) -> int | None:
    """Returns the number of lines of a file, an unfinished last one included, or None where to count would take long.

    Raises:
        UsageError: The file cannot be read.
    """
    lines, last = 0, b"\n"
    try:
        with Path(path).open("rb") as file:
            if Path(path).stat().st_size > _COUNTED_BYTES:
                return None
            for block in iter(partial(file.read, _BLOCK), b""):
                lines, last = lines + block.count(b"\n"), block[-1:]
    except OSError as exc:
        raise UsageError(f"{path} cannot be read ({exc.strerror})") from exc
    return lines + (last != b"\n")


def read_file_lines(path: str) -> Iterator[Cell]:
    """Yields the lines of the file at ``path``, see :func:`read_lines`."""
    with Path(path).open("rb") as file:
        yield from read_lines(file, path)


def read_lines(lines: Iterable[bytes], name: str, first: int = 1) -> Iterator[Cell]:
    """Yields each line with its place, ``name:number`` from ``first``, without its end (LF or CRLF) and without a BOM.

    A line that is not UTF-8 is unreadable, and the others stay what they are.

    Raises:
        UsageError: The first line begins as UTF-16 does.
    """
    for number, line in enumerate(lines, first):
        if number == 1:
            line = _without_bom(line, name)
        try:
            text: str | Unreadable = line.removesuffix(b"\n").removesuffix(b"\r").decode()
        except UnicodeDecodeError as exc:
            text = Unreadable(f"the line is not UTF-8 ({exc.reason} at byte {exc.start + 1}); convert the file")
        yield f"{name}:{number}", text


def _without_bom(line: bytes, name: str) -> bytes:
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UsageError(f"{name} is UTF-16, where UTF-8 is expected; convert it: iconv -f UTF-16 -t UTF-8")
    return line.removeprefix(codecs.BOM_UTF8)


def without_blanks(cells: Iterable[Cell]) -> Iterator[Cell]:
    """Yields those lines that are not blank; they hold neither JSON nor a path."""
    return (cell for cell in cells if isinstance(cell[1], Unreadable) or cell[1].strip(BLANKS))


def find_strings(cells: Iterable[Cell], column: str) -> Iterator[Cell]:
    """Yields the string under ``column`` of the JSON object on each line."""
    for place, line in cells:
        yield place, line if isinstance(line, Unreadable) else _find_string(line, column)


def _find_string(line: str, column: str) -> str | Unreadable:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as exc:
        return Unreadable(f"the line is not JSON ({exc})")
    if not isinstance(document, dict):
        return Unreadable(
            f'the line is of type {type(document).__name__}, where an object is expected: {{"{column}": ...}}'
        )
    if column not in document:
        return Unreadable(f"there is no {column!r} among {', '.join(map(repr, document)) or 'nothing'}; see --column")
    value = document[column]
    return (
        value if isinstance(value, str) else Unreadable(f"{column!r} is of type {type(value).__name__}, not a string")
    )
