"""Read the sizes of a network from the shapes of the weights in its ONNX graph, without the onnx package."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.artifact.protobuf import find_fields, map_file, read_varint
from runtime.errors import IntegrityError

_GRAPH, _INITIALIZER = 7, 5  # field numbers of ModelProto and GraphProto
_DIMS = 1 << 3  # tag of a number in TensorProto.dims, the first field of a tensor
_ATTENTION = (b"Softmax", b"Attention")  # in the names of operators


@dataclass(frozen=True, kw_only=True)
class GraphLayout:
    """The sizes of a network.

    Attributes:
        width: The smaller dimension of the largest matrix by this dimension: 384 for a table of ``[30522, 384]`` and
            layers of ``[384, 1536]``. It is 0 without matrices.
        patch: Side of the widest kernel over the 3 channels of an image, in pixels; 0 without one.
        attention: Whether there is attention.
    """

    width: int
    patch: int
    attention: bool


def read_layout(path: Path) -> GraphLayout:
    """Return the layout of the graph in the ONNX file ``path``.

    Raises:
        IntegrityError: The file is empty, or not in the format of protobuf.
        OSError: The file cannot be read.
    """
    try:
        with map_file(path) as content:
            shapes = list(_initializer_shapes(content))
            attention = any(content.find(name) >= 0 for name in _ATTENTION)
    except ValueError as exc:
        raise IntegrityError(f"{path} is not an ONNX graph ({exc}); export the artifact again") from exc
    return GraphLayout(
        width=max((min(shape) for shape in shapes if len(shape) == 2), default=0),
        patch=max((shape[3] for shape in shapes if len(shape) == 4 and shape[1] == 3), default=0),
        attention=attention,
    )


def _initializer_shapes(content: mmap.mmap) -> Iterator[list[int]]:
    for graph in find_fields(content, (0, len(content)), _GRAPH):
        for first, last in find_fields(content, graph, _INITIALIZER):
            yield _shape(content, first, last)


def _shape(content: mmap.mmap, start: int, end: int) -> list[int]:
    shape = []
    while start < end and content[start] == _DIMS:
        dimension, start = read_varint(content, start + 1, end)
        shape.append(dimension)
    return shape
