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


def read_numbers(text: bytes, dtype: type = np.float64) -> Array:
    """Read numbers between white space.

    Raises:
        ValueError: Something is not a number. numpy before 2.4 gives a DeprecationWarning, which the caller raises.
    """
    return np.fromstring(text, dtype, sep=" ") if text.strip() else np.zeros(0, dtype)


def read_vertices(rows: Iterable[bytes]) -> Array:
    """Read the first three numbers of each row, ``[rows, 3]`` float64."""
    cut = [row.split(None, 3)[:3] for row in rows]
    if any(len(row) < 3 for row in cut):
        raise UnusableItemError("it is damaged: a vertex has fewer than three coordinates; repair it")
    return read_numbers(b" ".join(word for row in cut for word in row)).reshape(-1, 3)
