"""Check a glTF file, and pose it, before trimesh reads it.

Sources: glTF 2.0 (https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html), section 3; and
EXT_mesh_gpu_instancing (https://github.com/KhronosGroup/glTF/tree/main/extensions/2.0/Vendor/EXT_mesh_gpu_instancing).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime.array_types import Float64Array
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh.gltf import Gltf

TRIANGLES, TRIANGLE_STRIP, _TRIANGLE_FAN = 4, 5, 6  # modes of a primitive
# A file may require these extensions: they do not change its triangles, or are followed here.
_KNOWN_EXTENSIONS = (
    "KHR_materials_",
    "KHR_texture_",
    "EXT_texture_",
    "KHR_lights_",
    "KHR_mesh_quantization",
    "EXT_mesh_gpu_instancing",
)
_INSTANCING = "EXT_mesh_gpu_instancing"
_INSTANCE_MEMBERS = {"TRANSLATION": "translation", "ROTATION": "rotation", "SCALE": "scale"}
_MAX_DEPTH = 64  # trimesh walks from every node to the root: minutes for a chain of some thousand nodes
# trimesh's time for a place of a primitive grows with the cube of its depth: 0.1 s at a depth of 62.
MAX_NESTING = 30_000_000  # of the cubes of the depths of all places
MAX_PARTS = 20_000  # nodes, primitives, or places of primitives of a file; trimesh takes seconds for so many
MAX_POSED_VERTICES = 5_000_000  # a file of a few kilobytes can pose one mesh thousands of times
# trimesh copies the first two for each primitive, and leaves out the mesh and the transform of a node with a camera.
_MISREAD = ("name", "extras", "camera")
_POSE_TOLERANCE = 1e-5  # of the largest coordinate


def check_gltf(gltf: Gltf) -> None:
    """Refuse a file that trimesh would misread, or that would take far more memory than its size.

    Raises:
        UnusableItemError: The file needs an unknown extension, or stores triangles in a way that trimesh ignores.
        Exception: The document does not follow the schema; any type is possible.
    """
    document = gltf.document
    unknown = [each for each in document.get("extensionsRequired", []) if not each.startswith(_KNOWN_EXTENSIONS)]
    if unknown:
        raise UnusableItemError(f"it needs {', '.join(unknown)}; export it without compression or extensions")
    nodes, accessors = document.get("nodes", []), document.get("accessors", [])
    if not all(0 <= accessor["count"] <= len(gltf.binary) for accessor in accessors):  # trimesh allocates zeros
        raise UnusableItemError("it announces more vertices than the file can hold; export it again")
    _check_parts(document)
    _check_depth(document)
    for primitive in (each for mesh in document.get("meshes", []) for each in mesh["primitives"]):
        _check_primitive(primitive, accessors)
    if any(any(each.get("weights", ())) for each in [*document.get("meshes", []), *nodes]):
        raise UnusableItemError("it mixes morph targets into its shape, which is not supported; export it without them")
    if any(not _extension(node, "KHR_node_visibility").get("visible", True) for node in nodes):
        raise UnusableItemError("it has hidden nodes, which are not supported; export it without them")


def pose_gltf(gltf: Gltf) -> None:
    """Write the instances and the skins of a checked document as plain nodes and meshes, which trimesh reads.

    A skin is posed by the joints' own transforms, without animation.

    Raises:
        UnusableItemError: Its instances have different counts, or it stores them or the skin sparsely.
        Exception: The document does not follow the schema; any type is possible.
    """
    nodes, meshes = gltf.document.get("nodes", []), gltf.document.get("meshes", [])
    for record in [*nodes, *meshes]:
        for member in _MISREAD:
            record.pop(member, None)
    for node in list(nodes):
        if attributes := _extension(node, _INSTANCING).get("attributes"):
            _place_instances(gltf, node, attributes)
    if any("skin" in node and "mesh" in node for node in nodes):
        _pose_skins(gltf)


def list_placements(document: dict[str, Any]) -> list[tuple[int, int]]:
    """Return the mesh of each node that has one, and how often the node places it.

    A root of the scene that is also a child counts twice, because trimesh places it for each of its parents.
    """
    nodes, scenes = document.get("nodes", []), document.get("scenes", [])
    roots = scenes[document.get("scene", 0)].get("nodes", ()) if scenes else ()
    twice = set(roots) & {child for node in nodes for child in node.get("children", ())}
    placing = [node for node in [*nodes, *(nodes[index] for index in twice)] if "mesh" in node]
    return [(node["mesh"], _count_instances(document, node)) for node in placing]


def _count_instances(document: dict[str, Any], node: dict[str, Any]) -> int:
    attributes = _extension(node, _INSTANCING).get("attributes", {})
    counts: list[int] = [document["accessors"][accessor]["count"] for accessor in attributes.values()]
    return max(counts, default=1)


def _extension(node: dict[str, Any], name: str) -> dict[str, Any]:
    extension: dict[str, Any] = node.get("extensions", {}).get(name, {})
    return extension


def _check_parts(document: dict[str, Any]) -> None:
    nodes, primitives = document.get("nodes", []), [len(mesh["primitives"]) for mesh in document.get("meshes", [])]
    placed = sum(times * primitives[mesh] for mesh, times in list_placements(document))
    if (parts := max(len(nodes), sum(primitives), placed)) > MAX_PARTS:
        raise UnusableItemError(f"it has {parts} parts to place, and at most {MAX_PARTS} are read; join its meshes")
    children = [child for node in nodes for child in node.get("children", ())]
    if len(set(children)) < len(children):
        raise UnusableItemError("it has nodes with several parents, which glTF forbids; export it again")


def _check_depth(document: dict[str, Any]) -> None:
    nodes, meshes = document.get("nodes", []), document.get("meshes", [])
    level, nesting = set(range(len(nodes))), 0
    for depth in range(1, _MAX_DEPTH + 1):
        level = {child for index in level for child in nodes[index].get("children", [])}
        placing = [nodes[index] for index in level if "mesh" in nodes[index]]
        places = sum(_count_instances(document, node) * len(meshes[node["mesh"]]["primitives"]) for node in placing)
        nesting += 3 * depth**2 * places  # the difference of the cubes of two depths
    if level:
        raise UnusableItemError(
            f"its nodes are nested more than {_MAX_DEPTH} deep, or in a circle; export it without hierarchy"
        )
    if nesting > MAX_NESTING:
        raise UnusableItemError("it has too many meshes that are nested deep; export it without hierarchy")


def _check_primitive(primitive: dict[str, Any], accessors: list[dict[str, Any]]) -> None:
    if primitive.get("mode") == _TRIANGLE_FAN:
        raise UnusableItemError("it has triangle fans, which are not supported; export it without them")
    used = [primitive["attributes"].get("POSITION"), primitive.get("indices")]
    for accessor in (accessors[index] for index in used if index is not None):
        if "sparse" in accessor or "bufferView" not in accessor:
            raise UnusableItemError(
                "its vertices are stored sparsely, which is not supported; export it without sparse accessors"
            )
        if accessor.get("normalized"):
            raise UnusableItemError(
                "its vertices are normalised, which is not supported; export it without quantisation"
            )


def _place_instances(gltf: Gltf, node: dict[str, Any], attributes: dict[str, int]) -> None:
    """Replace the mesh of a node by a child for each instance."""
    counts = {gltf.document["accessors"][accessor]["count"] for accessor in attributes.values()}
    count = counts.pop()
    if counts or "skin" in node:
        raise UnusableItemError("its instances are skinned or of different counts; export them as meshes")
    if "mesh" not in node:
        return
    mesh, nodes = node.pop("mesh"), gltf.document["nodes"]
    given = {
        member: gltf.read(attributes[name]).tolist() for name, member in _INSTANCE_MEMBERS.items() if name in attributes
    }
    places = [{member: values[index] for member, values in given.items()} for index in range(count)]
    node["children"] = [*node.get("children", []), *range(len(nodes), len(nodes) + count)]
    nodes.extend({"mesh": mesh, **place} for place in places)


def _pose_skins(gltf: Gltf) -> None:
    """Give each skinned node that is in the scene a mesh of its own, at the root: the format ignores its transform."""
    document = gltf.document
    nodes, scenes = document["nodes"], document.get("scenes", [])
    children = {child for node in nodes for child in node.get("children", [])}
    world = _world_transforms(nodes, [index for index in range(len(nodes)) if index not in children])
    scene = scenes[document.get("scene", 0)] if scenes else {}
    shown = _world_transforms(nodes, scene.get("nodes", []))
    left = MAX_POSED_VERTICES
    for index in [index for index in shown if "skin" in nodes[index] and "mesh" in nodes[index]]:
        node = nodes[index]
        joints = _joint_transforms(gltf, document["skins"][node["skin"]], world)
        primitives = document["meshes"][node["mesh"]]["primitives"]
        left -= sum(document["accessors"][each["attributes"]["POSITION"]]["count"] for each in primitives)
        if left < 0:
            raise UnusableItemError(f"it poses more than {MAX_POSED_VERTICES} vertices; export it without skins")
        stored = [gltf.read(each["attributes"]["POSITION"]) for each in primitives]
        posed = [_pose(gltf, each["attributes"], joints) for each in primitives]
        if all(map(_agree, posed, (_apply(shown[index][None], points) for points in stored))):
            continue  # trimesh's own reading is right, and its digits stay as they were
        placed = [
            each | {"attributes": {"POSITION": gltf.append(points)}}
            for each, points in zip(primitives, posed, strict=True)
        ]
        document["meshes"].append({"primitives": placed})
        nodes.append({"mesh": len(document["meshes"]) - 1})
        scene["nodes"] = [*scene["nodes"], len(nodes) - 1]
        del node["mesh"]


def _world_transforms(nodes: list[dict[str, Any]], roots: list[int]) -> dict[int, Float64Array]:
    """Return the ``[4, 4]`` transform of each node below the roots. The depth of the nodes has been checked."""
    found: dict[int, Float64Array] = {}
    waiting = [(root, np.eye(4)) for root in reversed(roots)]
    while waiting:
        index, parent = waiting.pop()
        if index not in found:
            found[index] = parent @ _local_transform(nodes[index])
            waiting.extend((child, found[index]) for child in nodes[index].get("children", []))
    return found


def _local_transform(node: dict[str, Any]) -> Float64Array:
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    transform = np.eye(4)
    transform[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    transform[:3, :3] *= node.get("scale", (1, 1, 1))
    transform[:3, 3] = node.get("translation", (0, 0, 0))
    return transform


def _joint_transforms(gltf: Gltf, skin: dict[str, Any], world: dict[int, Float64Array]) -> Float64Array:
    """Return the ``[joints, 4, 4]`` transforms of vertices that follow one joint alone."""
    joints = np.array([world[index] for index in skin["joints"]])
    if "inverseBindMatrices" not in skin:
        return joints
    inverse = gltf.read(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
    return np.asarray(joints @ inverse[: len(joints)])


def _pose(gltf: Gltf, attributes: dict[str, int], joints: Float64Array) -> Float64Array:
    """Return the vertices of a primitive as the weighted mean of what their joints make of them."""
    points = gltf.read(attributes["POSITION"])
    total, weight = np.zeros_like(points), np.zeros((len(points), 1))
    for part in range(8):
        if f"JOINTS_{part}" not in attributes:
            break
        numbers = gltf.read(attributes[f"JOINTS_{part}"]).astype(np.int64).T
        shares = gltf.read(attributes[f"WEIGHTS_{part}"]).T
        for number, share in zip(numbers, shares, strict=True):
            total += _apply(joints[number], points) * share[:, None]
            weight += share[:, None]
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1), points)


def _apply(transforms: Float64Array, points: Float64Array) -> Float64Array:
    x, y, z = points.T[:, :, None]
    columns = np.moveaxis(transforms[:, :3], 2, 0)
    return np.asarray(columns[0] * x + columns[1] * y + columns[2] * z + columns[3])


def _agree(one: Float64Array, other: Float64Array) -> bool:
    return bool(np.abs(one - other).max(initial=0) <= _POSE_TOLERANCE * np.abs(other).max(initial=0))
