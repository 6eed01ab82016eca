"""Read Wavefront OBJ files: vertices and faces.

Source: Wavefront's Object Files (http://paulbourke.net/dataformats/obj/).
"""

from __future__ import annotations

import re

import numpy as np

from runtime.array_types import Array
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh.polygons import PolygonMesh, TriangleMesh, cut_polygons
from runtime.preprocess.mesh.text import clean_text, read_numbers, read_vertices

_VERTEX = re.compile(rb"(?m)^[ \t]*v[ \t]+([^\n]*)")
_FACE = re.compile(rb"(?m)^[ \t]*fo?[ \t]+([^\n]*)")
_OTHER_SURFACE = re.compile(rb"(?m)^[ \t]*(surf|bsp|bzp|cdp|call|csh)[ \t]")


def read_obj(data: bytes) -> TriangleMesh:
    """Read all faces in the order of the file, without materials.

    Raises:
        UnusableItemError: The file is damaged, names vertex 0, or has surfaces other than faces.
        Exception: A number is damaged.
    """
    text = re.sub(rb"\\[ \t]*\n", b" ", clean_text(data))
    if other := _OTHER_SURFACE.search(text):
        raise UnusableItemError(
            f"it has '{other[1].decode()}' statements, which are not supported; export it as polygons"
        )
    vertices, faces = list(_VERTEX.finditer(text)), list(_FACE.finditer(text))
    rows = [re.sub(rb"(?<=[0-9])/\S*", b"", face[1]) for face in faces]
    sizes = np.array([len(row.split()) for row in rows], np.int64)
    indices = read_numbers(b" ".join(rows), int(sizes.sum()), np.int64)
    latest = np.searchsorted([each.start() for each in vertices], [each.start() for each in faces])
    mesh = PolygonMesh(
        vertices=read_vertices(vertex[1] for vertex in vertices),
        sizes=sizes,
        indices=_absolute(indices, np.repeat(latest, sizes)),
    )
    return cut_polygons(mesh)


def _absolute(indices: Array, latest: Array) -> Array:
    """Return indices that count from 0. A negative index counts back from the ``latest`` vertex before its face."""
    if (indices == 0).any():
        raise UnusableItemError("its faces name vertex 0, and OBJ counts from 1; repair it")
    return np.where(indices > 0, indices - 1, indices + latest)
