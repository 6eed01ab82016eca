"""Read STL files, text and binary: triangles, without normals and colours.

Source: https://www.fabbers.com/tech/STL_Format
"""

from __future__ import annotations

import re

import numpy as np

from runtime.array_types import Array
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh.polygons import TriangleMesh
from runtime.preprocess.mesh.text import clean_text, read_vertices

_HEADER = 84  # bytes: a title of 80 bytes and a count
_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("rest", "<u2")])
_NAME = re.compile(rb"(?mi)^[ \t]*(?:end)?solid\b[^\n]*")  # a name may hold any words
_VERTEX = re.compile(rb"(?i)\bvertex\s+(\S+\s+\S+\s+\S+)")
_END_OF_FACET = re.compile(rb"(?i)\bendfacet\b")


def read_stl(data: bytes) -> TriangleMesh:
    """Read all triangles in the order of the file.

    Bytes behind the triangles of a binary file are ignored, if they are padding or too few for another triangle.

    Raises:
        UnusableItemError: The file is truncated or damaged, or may have more triangles than it states.
        Exception: A number is damaged.
    """
    count = int.from_bytes(data[80:84], "little")
    end = _HEADER + _TRIANGLE.itemsize * count
    if len(data) < _HEADER or end > len(data):  # the count of a text file would be gigabytes of triangles
        return _read_text(clean_text(data, comments=False))
    if len(data) - end >= _TRIANGLE.itemsize and data[end:].strip(b"\0 \r\n"):
        raise UnusableItemError(
            f"it announces {count} triangles, and {len(data) - end} bytes follow them; export it again"
        )
    return _mesh(np.frombuffer(data, _TRIANGLE, count, _HEADER)["corners"].astype(np.float64))


def _read_text(text: bytes) -> TriangleMesh:
    if not re.search(rb"(?i)\bendsolid\b", text):
        raise UnusableItemError("it is truncated or not STL: it does not have the length that its header states")
    *facets, rest = map(_VERTEX.findall, _END_OF_FACET.split(_NAME.sub(b"", text)))
    if rest or any(len(facet) != 3 for facet in facets):
        raise UnusableItemError("it is truncated or damaged: a facet does not have three vertices; repair it")
    return _mesh(read_vertices(row for facet in facets for row in facet))


def _mesh(corners: Array) -> TriangleMesh:
    vertices = corners.reshape(-1, 3)
    return TriangleMesh(vertices=vertices, faces=np.arange(len(vertices)).reshape(-1, 3))
