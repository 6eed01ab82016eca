"""Read the operators of an ONNX file without the onnx package."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_GRAPH, _NODE, _OPERATOR = 7, 1, 4  # fields of ModelProto, GraphProto and NodeProto


def read_operators(path: Path) -> frozenset[str]:
    """Return the names of the operators of a graph, without those inside of loops and conditions.

    Weights are skipped, not read. A damaged file gives an empty set; ONNX Runtime refuses it.

    Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto,
    https://protobuf.dev/programming-guides/encoding
    """
    with suppress(IndexError, ValueError), path.open("rb") as file, _map(file) as data:
        return frozenset(
            data[start:stop].decode(errors="replace")
            for graph in _fields(data, 0, len(data), _GRAPH)
            for node in _fields(data, *graph, _NODE)
            for start, stop in _fields(data, *node, _OPERATOR)
        )
    return frozenset()


def _map(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _fields(data: mmap.mmap, at: int, stop: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Yield the start and stop of each field with the number ``wanted`` of the message ``data[at:stop]``."""
    while at < stop:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            _, at = _varint(data, at)
            continue
        size, at = (8, at) if kind == 1 else (4, at) if kind == 5 else _varint(data, at)
        if number == wanted:
            yield at, at + size
        at += size


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
