"""Read OFF files of three dimensions.

Source: Geomview's manual (http://www.geomview.org/docs/html/OFF.html).
"""

from __future__ import annotations

import re

import numpy as np

from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh.polygons import PolygonMesh, TriangleMesh, cut_polygons
from runtime.preprocess.mesh.text import clean_text, read_numbers, read_vertices, split_rows

# ModelNet40 has files without white space between OFF and the counts.
_HEAD = re.compile(rb"\s*+(?:ST)?C?N?OFF\s*+(?P<vertices>[0-9]+)\s+(?P<faces>[0-9]+)\b[^\n]*")


def read_off(data: bytes) -> TriangleMesh:
    """Read the vertices and the faces, without colours and normals.

    Raises:
        UnusableItemError: The file is damaged, binary, or of another number of dimensions.
        Exception: A number is damaged.
    """
    text = clean_text(data)
    head = _HEAD.match(text)
    if not head:
        raise UnusableItemError("it does not begin as a text OFF file of three dimensions; export it again as text")
    count, faces = int(head["vertices"]), int(head["faces"])
    rows = split_rows(text[head.end() :], count + faces)
    words = [row.split() for row in rows[count:]]
    sizes = np.array([int(row[0]) for row in words], np.int64)
    corners = [row[1 : size + 1] for row, size in zip(words, sizes.tolist(), strict=True)]
    if any(len(row) != size for row, size in zip(corners, sizes.tolist(), strict=True)):
        raise UnusableItemError("it is truncated or damaged: a face has fewer corners than it announces; copy it again")
    indices = read_numbers(b" ".join(word for row in corners for word in row), int(sizes.sum()), np.int64)
    return cut_polygons(PolygonMesh(vertices=read_vertices(rows[:count]), sizes=sizes, indices=indices))
