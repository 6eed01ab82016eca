"""Bound the memory that mesh files take, before it is taken."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from runtime.preprocess.json_memory import parsed_json_bytes
from runtime.preprocess.mesh.gltf import COMPONENTS, WIDTHS
from runtime.preprocess.mesh.gltf_pose import TRIANGLE_STRIP, TRIANGLES, list_placements

_PER_BYTE, _PER_LINE = 20, 400  # of OBJ, OFF, PLY and STL
_PER_GLTF_BYTE, _PER_JSON_BYTE = 8, 20  # copies of the file, and of its document as text
_ARRAY_COPIES = 2  # of an accessor
_VERTEX, _POSED_VERTEX = 100, 700  # of each attribute that trimesh reads
_STORED_TRIANGLE, _PLACED_TRIANGLE = 150, 200
_PART = 3000  # of a node or a placed primitive, in the document and in trimesh
_READ_ATTRIBUTES = ("POSITION", "NORMAL", "COLOR_0", "_")


def reading_bytes(data: bytes, suffix: str) -> int:
    """Return the memory that reading a file takes at most, without the arrays that its reader asks for.

    Readers call :func:`~runtime.preprocess.memory_limit.ask_for_memory` for the arrays of polygons and of glTF: a short
    file can hold many triangles.
    """
    if suffix not in (".glb", ".gltf"):
        return _PER_BYTE * len(data) + _PER_LINE * (data.count(b"\n") + data.count(b"\r"))
    document = data if suffix == ".gltf" else data[20 : 20 + int.from_bytes(data[12:16], "little")]
    twice = 2 * parsed_json_bytes(document)  # by this project, and then by trimesh
    return _PER_GLTF_BYTE * len(data) + _PER_JSON_BYTE * len(document) + twice


class _MeshSize(NamedTuple):
    primitives: int
    vertices: int
    triangles: int


def loading_bytes(document: dict[str, Any]) -> int:
    """Return the memory that posing a checked glTF, trimesh, and its triangles at their places take at most.

    Raises:
        Exception: The document does not follow the schema; any type is possible.
    """
    accessors, nodes = document.get("accessors", []), document.get("nodes", [])
    sizes = [_mesh_size(mesh["primitives"], accessors) for mesh in document.get("meshes", [])]
    views = sum(view["byteLength"] for view in document.get("bufferViews", []))
    arrays = views + _ARRAY_COPIES * sum(map(_array_bytes, accessors))
    stored = sum(_VERTEX * size.vertices + _STORED_TRIANGLE * size.triangles for size in sizes)
    placed = sum(
        times * (_PART * sizes[mesh].primitives + _PLACED_TRIANGLE * sizes[mesh].triangles)
        for mesh, times in list_placements(document)
    )
    skinned = [sizes[node["mesh"]] for node in nodes if "skin" in node and "mesh" in node]
    posed = sum(_POSED_VERTEX * size.vertices + _STORED_TRIANGLE * size.triangles for size in skinned)
    parts = _PART * (len(nodes) + sum(size.primitives for size in sizes))
    return int(arrays + stored + placed + posed + parts)


def _mesh_size(primitives: list[dict[str, Any]], accessors: list[dict[str, Any]]) -> _MeshSize:
    read = (
        accessors[accessor]["count"]
        for primitive in primitives
        for name, accessor in primitive["attributes"].items()
        if name.startswith(_READ_ATTRIBUTES)
    )
    triangles = sum(_count_triangles(primitive, accessors) for primitive in primitives)
    return _MeshSize(len(primitives), sum(read), triangles)


def _count_triangles(primitive: dict[str, Any], accessors: list[dict[str, Any]]) -> int:
    mode = primitive.get("mode", TRIANGLES)
    if mode not in (TRIANGLES, TRIANGLE_STRIP):
        return 0
    used = primitive["indices"] if "indices" in primitive else primitive["attributes"]["POSITION"]
    corners: int = accessors[used]["count"]
    return corners if mode == TRIANGLE_STRIP else corners // 3


def _array_bytes(accessor: dict[str, Any]) -> int:
    size: int = accessor["count"] * np.dtype(COMPONENTS[accessor["componentType"]]).itemsize
    return size * WIDTHS.get(accessor["type"], max(WIDTHS.values()))
