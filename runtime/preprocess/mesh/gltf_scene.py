"""Read the triangles of glTF: those of its default scene, at their places.

Source: glTF 2.0 (https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html), sections 3.5 and 3.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from runtime.array_types import Array, Float64Array
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.memory_limit import ask_for_memory
from runtime.preprocess.mesh.gltf import Gltf
from runtime.preprocess.mesh.gltf_pose import instance_transforms, joint_transforms, pose, world_transforms
from runtime.preprocess.mesh.placement import check_placed_triangles, multiply_transforms, transform_points
from runtime.preprocess.mesh.polygons import TriangleMesh, check_indices, fan

_LIST, _STRIP, _FAN = 4, 5, 6  # modes of primitives
# A file of a few kilobytes can place or pose its primitives thousands of times.
MAX_PLACED_PRIMITIVES = 50_000
MAX_POSED_VERTICES = 5_000_000
# Bytes at most: of a node, with its transforms; of what is placed, until the areas are known; and of the one mesh that
# is being read.
_NODE, _PLACED_PRIMITIVE, _PLACED_TRIANGLE = 1500, 500, 320
_READ_TRIANGLE, _POSED_VERTEX = 300, 700


class _MeshSize(NamedTuple):
    primitives: int
    vertices: int
    triangles: int


def read_gltf_triangles(gltf: Gltf) -> TriangleMesh:
    """Read all triangles of the default scene, without materials.

    They are in the order of the file: nodes, the instances of a node, the primitives of its mesh. The transform of a
    skinned node is ignored, as the format demands.

    Raises:
        UnusableItemError: The file has morph targets, hidden nodes, nodes with several parents, or sparse accessors; or
            it places or poses so much that it would take far more memory than its size.
        TooLittleMemoryError: The triangles need more memory than the limit of the thread.
        Exception: The document does not follow the schema; any type is possible.
    """
    _check_features(gltf.document)
    nodes = gltf.document.get("nodes", [])
    shown = [index for index in _shown_nodes(gltf.document) if "mesh" in nodes[index]]
    _check_size(gltf.document, [nodes[index] for index in shown])
    world = world_transforms(nodes)
    parts = [part for index in shown for part in _place(gltf, nodes[index], world, world[index])]
    vertices = np.concatenate([np.zeros((0, 3, 3)), *parts]).reshape(-1, 3)
    return TriangleMesh(vertices=vertices, faces=np.arange(len(vertices)).reshape(-1, 3))


def _check_features(document: dict[str, Any]) -> None:
    nodes = document.get("nodes", [])
    if any(any(each.get("weights", ())) for each in [*document.get("meshes", []), *nodes]):
        raise UnusableItemError("it mixes morph targets into its shape, which is not supported; export it without them")
    if any(not _extension(node, "KHR_node_visibility").get("visible", True) for node in nodes):
        raise UnusableItemError("it has hidden nodes, which are not supported; export it without them")
    children = [*_scene_roots(document), *(child for node in nodes for child in node.get("children", ()))]
    if not set(children) <= set(range(len(nodes))):
        raise UnusableItemError("it is damaged: it names nodes that are not there; export it again")
    if len(set(children)) < len(children):
        raise UnusableItemError("it has nodes with several parents, which glTF forbids; export it again")


def _check_size(document: dict[str, Any], placing: list[dict[str, Any]]) -> None:
    """Check how much the nodes place, and ask for its memory."""
    sizes = {mesh: _mesh_size(document, mesh) for mesh in {node["mesh"] for node in placing}}
    stored = sum(size.primitives for size in sizes.values())
    places = [(sizes[node["mesh"]], _count_instances(document, node)) for node in placing]
    placed = sum(times * size.primitives for size, times in places)
    if placed > max(stored, MAX_PLACED_PRIMITIVES):
        raise UnusableItemError(f"it places {stored} primitives so often that they become {placed}; join its meshes")
    triangles = sum(times * size.triangles for size, times in places)
    check_placed_triangles(sum(size.triangles for size in sizes.values()), triangles)
    posed = [sizes[node["mesh"]].vertices for node in placing if "skin" in node]
    if sum(posed) > MAX_POSED_VERTICES:
        raise UnusableItemError(f"it poses more than {MAX_POSED_VERTICES} vertices; export it without skins")
    ask_for_memory(
        _NODE * len(document.get("nodes", []))
        + _PLACED_PRIMITIVE * placed
        + _PLACED_TRIANGLE * triangles
        + _READ_TRIANGLE * max((size.triangles for size in sizes.values()), default=0)
        + _POSED_VERTEX * max(posed, default=0)
    )


def _mesh_size(document: dict[str, Any], mesh: int) -> _MeshSize:
    accessors, size = document["accessors"], _MeshSize(0, 0, 0)
    for primitive in _surfaces(document, mesh):
        vertices = accessors[primitive["attributes"]["POSITION"]]["count"]
        corners = accessors[primitive["indices"]]["count"] if "indices" in primitive else vertices
        triangles = corners // 3 if primitive.get("mode", _LIST) == _LIST else max(0, corners - 2)
        size = _MeshSize(size.primitives + 1, size.vertices + vertices, size.triangles + triangles)
    return size


def _surfaces(document: dict[str, Any], mesh: int) -> list[dict[str, Any]]:
    """Return the primitives of a mesh that are triangles, and not points or lines."""
    primitives = document["meshes"][mesh]["primitives"]
    return [each for each in primitives if each.get("mode", _LIST) in (_LIST, _STRIP, _FAN)]


def _scene_roots(document: dict[str, Any]) -> list[int]:
    scenes = document.get("scenes", [])
    roots: list[int] = scenes[document.get("scene", 0)].get("nodes", []) if scenes else []
    return roots


def _shown_nodes(document: dict[str, Any]) -> list[int]:
    """Return the nodes of the default scene, in the order of the file. No node has several parents."""
    shown = list(_scene_roots(document))
    for index in shown:  # which grows
        shown += document["nodes"][index].get("children", ())
    return sorted(shown)


def _extension(node: dict[str, Any], name: str) -> dict[str, Any]:
    extension: dict[str, Any] = node.get("extensions", {}).get(name, {})
    return extension


def _instance_attributes(node: dict[str, Any]) -> dict[str, int]:
    attributes: dict[str, int] = _extension(node, "EXT_mesh_gpu_instancing").get("attributes", {})
    return attributes


def _count_instances(document: dict[str, Any], node: dict[str, Any]) -> int:
    counts: list[int] = [document["accessors"][each]["count"] for each in _instance_attributes(node).values()]
    return max(counts, default=1)


def _place(gltf: Gltf, node: dict[str, Any], world: Float64Array, place: Float64Array) -> Iterator[Float64Array]:
    """Yield the ``[triangles, 3, 3]`` corners of the mesh of a node, for each of its instances."""
    primitives, attributes = _surfaces(gltf.document, node["mesh"]), _instance_attributes(node)
    if "skin" in node:
        if attributes:
            raise UnusableItemError("it has instances of a skinned mesh, which glTF leaves open; export them as meshes")
        joints = joint_transforms(gltf, gltf.document["skins"][node["skin"]], world)
        for each in primitives:
            yield pose(gltf, each["attributes"], joints)[_faces(gltf, each)]
        return
    corners = [gltf.read(each["attributes"]["POSITION"], _faces(gltf, each)) for each in primitives]
    places = multiply_transforms(place, instance_transforms(gltf, attributes)) if attributes else place[None]
    for transform in places:
        yield from (transform_points(transform, each) for each in corners)


def _faces(gltf: Gltf, primitive: dict[str, Any]) -> Array:
    """Return the triangles of a primitive, ``[triangles, 3]`` indices of its vertices.

    Source: glTF 2.0, section 3.7.2.1, for the direction of every second triangle of a strip.
    """
    vertices = gltf.document["accessors"][primitive["attributes"]["POSITION"]]["count"]
    corners = gltf.stored(primitive["indices"]).ravel() if "indices" in primitive else np.arange(vertices)
    check_indices(corners, vertices)
    mode = primitive.get("mode", _LIST)
    if mode == _LIST:
        return corners.reshape(-1, 3)
    if mode == _FAN:
        return corners[fan(len(corners))]
    first = np.arange(max(0, len(corners) - 2))
    odd = first % 2
    return corners[np.stack([first, first + 1 + odd, first + 2 - odd], axis=1)]
