"""Read the text of mesh files."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable

import numpy as np

from runtime.array_types import Array
from runtime.preprocess.item import UnusableItemError


def clean_text(data: bytes, *, comments: bool = True) -> bytes:
    """Return text whose lines end with a line feed, without a byte order mark, and without ``#`` comments."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode()
    text = data.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return re.sub(rb"#[^\n]*", b"", text) if comments else text


def split_rows(text: bytes, announced: int) -> list[bytes]:
    """Return the lines that are not blank, which must be as many as the header announces."""
    rows = [row for row in text.split(b"\n") if row.strip()]
    if len(rows) != announced:
        raise UnusableItemError(
            f"it is truncated or damaged: it announces {announced} vertices and faces, and holds {len(rows)}; "
            "copy it again"
        )
    return rows


def read_numbers(text: bytes, count: int, dtype: type = np.float64) -> Array:
    """Read ``count`` numbers between white space.

    Raises:
        UnusableItemError: Something is not a number.
        ValueError: The same, by numpy from 2.4 on. Earlier versions only warn, and return the numbers before it.
    """
    numbers: Array = np.fromstring(text + b" 0", dtype, sep=" ")  # the 0 shows that the last number was read to its end
    if len(numbers) != count + 1:
        raise UnusableItemError("it is damaged: a number cannot be read; repair it")
    return numbers[:-1]


def read_vertices(rows: Iterable[bytes]) -> Array:
    """Read the first three numbers of each row, ``[rows, 3]`` float64."""
    cut = [row.split(None, 3)[:3] for row in rows]
    if any(len(row) < 3 for row in cut):
        raise UnusableItemError("it is damaged: a vertex has fewer than three coordinates; repair it")
    return read_numbers(b" ".join(word for row in cut for word in row), 3 * len(cut)).reshape(-1, 3)
