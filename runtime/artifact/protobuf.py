"""Read the fields of a protobuf file, for example of an ONNX graph, without the protobuf package.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

_LENGTH_DELIMITED = 2  # wire type of messages, strings and bytes
_FIXED_BYTES = {1: 8, 5: 4}  # wire types of numbers with a fixed size


def map_file(path: Path) -> mmap.mmap:
    """Return the content of a file as a memory map. A ``with`` block closes it.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is empty.
    """
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def read_fields(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each length-delimited field of a message, and skip the others.

    Raises:
        ValueError: The bytes from ``start`` to ``end`` are not a message.
    """
    while start < end:
        tag, start = read_varint(content, start, end)
        wire_type = tag & 7
        if wire_type == _LENGTH_DELIMITED:
            length, start = read_varint(content, start, end)
            if start + length > end:
                raise ValueError("a field ends behind its message")
            yield tag >> 3, start, start + length
            start += length
        elif wire_type == 0:
            _, start = read_varint(content, start, end)
        elif wire_type in _FIXED_BYTES:
            start += _FIXED_BYTES[wire_type]
        else:
            raise ValueError(f"it has the wire type {wire_type}")
    if start != end:
        raise ValueError("a field ends behind its message")


def find_fields(content: mmap.mmap, message: tuple[int, int], wanted: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each length-delimited field ``wanted`` of a message, which is given by its start and end.

    Raises:
        ValueError: The bytes of ``message`` are not a message.
    """
    return ((first, last) for number, first, last in read_fields(content, *message) if number == wanted)


def read_varint(content: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """Return the number at ``start``, of at most ten bytes, and the position after it.

    Raises:
        ValueError: The number does not end before ``end``.
    """
    number = 0
    for position in range(start, min(start + 10, end)):
        byte = content[position]
        number |= (byte & 0x7F) << (7 * (position - start))
        if byte < 0x80:
            return number, position + 1
    raise ValueError("a number does not end")
