"""Read the operators of an ONNX file without the onnx package."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from runtime.artifact.protobuf import map_file, read_fields

_GRAPH, _NODE, _OPERATOR = 7, 1, 4  # fields of ModelProto, GraphProto and NodeProto


def read_operators(path: Path) -> frozenset[str]:
    """Return the names of the operators of a graph, without those inside of loops and conditions.

    Weights are skipped, not read. A damaged file gives an empty set; ONNX Runtime refuses it.

    Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
    """
    with suppress(ValueError), map_file(path) as content:
        return frozenset(
            content[first:last].decode(errors="replace")
            for graph in _fields(content, (0, len(content)), _GRAPH)
            for node in _fields(content, graph, _NODE)
            for first, last in _fields(content, node, _OPERATOR)
        )
    return frozenset()


def _fields(content: mmap.mmap, message: tuple[int, int], wanted: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each field with the number ``wanted``."""
    return ((first, last) for number, first, last in read_fields(content, *message) if number == wanted)
