"""Follow the transforms of glTF: those of nodes, instances and skins.

Sources: glTF 2.0 (https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html), sections 3.5 and 3.7.3; and
EXT_mesh_gpu_instancing (https://github.com/KhronosGroup/glTF/tree/main/extensions/2.0/Vendor/EXT_mesh_gpu_instancing).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime.array_types import Float64Array
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh.gltf import Gltf
from runtime.preprocess.mesh.placement import multiply_transforms, transform_points

# The members of a node that place it, and what they are by default. The attributes of instances have capitals.
_MEMBERS: dict[str, tuple[float, ...]] = {
    "translation": (0.0, 0.0, 0.0),
    "rotation": (0.0, 0.0, 0.0, 1.0),
    "scale": (1.0, 1.0, 1.0),
}


def world_transforms(nodes: list[dict[str, Any]]) -> Float64Array:
    """Return the ``[nodes, 4, 4]`` float64 transform of each node to the space of its scene.

    Raises:
        UnusableItemError: Nodes are in a circle.
        Exception: A node does not follow the schema; any type is possible.
    """
    world = _local_transforms(nodes)
    children = {child for node in nodes for child in node.get("children", ())}
    level = [index for index in range(len(nodes)) if index not in children]
    reached = 0
    while level:
        reached += len(level)
        pairs = [(parent, child) for parent in level for child in nodes[parent].get("children", ())]
        parents, level = [parent for parent, _ in pairs], [child for _, child in pairs]
        world[level] = multiply_transforms(world[parents], world[level])
    if reached != len(nodes):
        raise UnusableItemError("its nodes are in a circle, which glTF forbids; export it again")
    return world


def instance_transforms(gltf: Gltf, attributes: dict[str, int]) -> Float64Array:
    """Return the ``[instances, 4, 4]`` float64 transforms of EXT_mesh_gpu_instancing, relative to their node.

    Raises:
        UnusableItemError: The attributes have different counts, or are sparse.
        Exception: They do not follow the schema; any type is possible.
    """
    counts = {gltf.document["accessors"][accessor]["count"] for accessor in attributes.values()}
    if len(counts) > 1:
        raise UnusableItemError("its instances have attributes of different counts; export them as meshes")
    (count,) = counts
    given = {name: gltf.read(attributes[name.upper()]) for name in _MEMBERS if name.upper() in attributes}
    return _compose(
        *(
            given[name].reshape(count, len(default)) if name in given else np.full((count, len(default)), default)
            for name, default in _MEMBERS.items()
        )
    )


def joint_transforms(gltf: Gltf, skin: dict[str, Any], world: Float64Array) -> Float64Array:
    """Return the ``[joints, 4, 4]`` float64 transforms of vertices that follow one joint alone.

    Raises:
        Exception: The skin does not follow the schema; any type is possible.
    """
    joints: Float64Array = world[skin["joints"]]
    if "inverseBindMatrices" not in skin:
        return joints
    inverse = gltf.read(skin["inverseBindMatrices"])[: len(joints)].reshape(joints.shape)
    return multiply_transforms(joints, inverse.swapaxes(1, 2))


def pose(gltf: Gltf, attributes: dict[str, int], joints: Float64Array) -> Float64Array:
    """Return the vertices of a skinned primitive, ``[vertices, 3]`` float64.

    A vertex is the weighted mean of what its joints make of it. The joints stand as their nodes say, without animation.

    Raises:
        Exception: The attributes do not follow the schema; any type is possible.
    """
    points = gltf.read(attributes["POSITION"])
    total, weight = np.zeros_like(points), np.zeros((len(points), 1))
    for part in range(8):
        if f"JOINTS_{part}" not in attributes:
            break
        numbers = gltf.stored(attributes[f"JOINTS_{part}"]).T
        shares = gltf.read(attributes[f"WEIGHTS_{part}"]).T
        for number, share in zip(numbers, shares, strict=True):
            total += transform_points(joints[number], points) * share[:, None]
            weight += share[:, None]
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1), points)


def _local_transforms(nodes: list[dict[str, Any]]) -> Float64Array:
    given = (
        np.array([node.get(name, default) for node in nodes], np.float64).reshape(len(nodes), len(default))
        for name, default in _MEMBERS.items()
    )
    transforms = _compose(*given)
    for index, node in enumerate(nodes):
        if "matrix" in node:
            transforms[index] = np.array(node["matrix"], np.float64).reshape(4, 4).T
    return transforms


def _compose(moves: Float64Array, turns: Float64Array, scales: Float64Array) -> Float64Array:
    """Return ``[n, 4, 4]`` transforms that scale, then turn by a quaternion ``[n, 4]`` of any length, then move."""
    lengths = np.sqrt((turns * turns).sum(axis=1))
    x, y, z, w = turns.T / np.where(lengths > 0, lengths, 1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    transforms = np.zeros((len(turns), 4, 4))
    transforms[:, :3, :3] = np.moveaxis(np.array(rows), -1, 0) * scales[:, None]
    transforms[:, :3, 3] = moves
    transforms[:, 3, 3] = 1
    return transforms
