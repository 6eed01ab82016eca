"""Read the operators of an ONNX file without the onnx package."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from runtime.artifact.protobuf import find_fields, map_file

_GRAPH, _NODE, _OPERATOR = 7, 1, 4  # fields of ModelProto, GraphProto and NodeProto


def read_operators(path: Path) -> frozenset[str]:
    """Return the names of the operators of a graph, without those inside of loops and conditions.

    Weights are skipped, not read. A damaged file gives an empty set; ONNX Runtime refuses it.

    Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
    """
    with suppress(ValueError), map_file(path) as content:
        return frozenset(
            content[first:last].decode(errors="replace")
            for graph in find_fields(content, (0, len(content)), _GRAPH)
            for node in find_fields(content, graph, _NODE)
            for first, last in find_fields(content, node, _OPERATOR)
        )
    return frozenset()
