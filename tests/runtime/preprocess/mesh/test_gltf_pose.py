"""Test which GLB files are refused, and how instances and skins are posed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.array_types import Array
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh import gltf_pose
from runtime.preprocess.mesh.triangles import load_corners
from tests.runtime.preprocess.cube import (
    CORNERS,
    FACES,
    glb,
    pack_glb,
    prepare,
    split_glb,
    with_accessor,
    with_arrays,
    write,
)

DOCUMENT = split_glb(glb())[0]

BAD_FILES: dict[str, tuple[bytes, str]] = {
    "cut": (glb()[:-5], "truncated"),
    "of points": (glb(meshes=[{"primitives": [{"mode": 0, "attributes": {"POSITION": 0}}]}]), "no faces"),
    "of fans": (glb(meshes=[{"primitives": [{"mode": 6, "attributes": {"POSITION": 0}}]}]), "fans"),
    "without meshes": (glb(meshes=[], nodes=[{}]), "no faces"),
    "too far": (with_accessor(0, count=7), "name vertices 0 to 7 of 7"),
    "short": (with_accessor(0, count=9), "cannot be read"),
    "claim": (with_accessor(0, count=10**12, bufferView=None), "more vertices than"),
    "without data": (with_accessor(0, bufferView=None), "stored sparsely"),
    "sparse": (with_accessor(0, sparse={"count": 1}), "stored sparsely"),
    "normalised": (with_accessor(0, normalized=True), "normalised"),
    "elsewhere": (glb(buffers=[{"byteLength": 9, "uri": "https://127.0.0.1/x"}]), "not a file of its folder"),
    "compressed": (glb(extensionsRequired=["KHR_draco_mesh_compression"]), "needs KHR_draco"),
    "nested": (pack_glb("[" * 100_000, b""), "cannot be read"),
    "transform": (
        glb(nodes=[{"mesh": 0, "scale": [1e308] * 3, "translation": [1.7e308] * 3}]),
        "NaN or infinity",
    ),
    "negative": (with_accessor(0, count=-1), "more vertices than"),
    "parents": (glb(nodes=[{"children": [2]}, {"children": [2]}, {"mesh": 0}]), "several parents"),
    "circle": (glb(nodes=[{"mesh": 0, "children": [1]}, {"children": [0]}]), "in a circle"),
    "depth": (glb(nodes=[*({"children": [i]} for i in range(1, 66)), {"mesh": 0}]), "more than 64 deep"),
}


@pytest.mark.parametrize(("data", "reason"), BAD_FILES.values(), ids=BAD_FILES)
def test_unusable_files_say_why(data: bytes, reason: str, tmp_path: Path, capfd: Any) -> None:
    path = write(tmp_path, ".glb", data)
    with pytest.raises(UnusableItemError, match=reason) as caught:
        prepare(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def instances(**arrays: Array) -> bytes:
    attributes = {name.upper(): name for name in arrays}
    extensions = {"EXT_mesh_gpu_instancing": {"attributes": attributes}}
    node = {"mesh": 0, "translation": [0, 100, 0], "extensions": extensions}
    return with_arrays({"nodes": [node], "extensionsUsed": [*extensions]}, arrays)


PLACES = np.array([[0, 0, 0], [5, 0, 0], [9, 0, 1]], "<f4")


def test_instances_are_placed(tmp_path: Path) -> None:
    corners = load_corners(write(tmp_path, ".glb", instances(translation=PLACES)))
    expected = np.concatenate([CORNERS[FACES] + place + [0, 100, 0] for place in PLACES[::-1]])  # trimesh's order
    np.testing.assert_allclose(corners, expected)


def test_instances_are_turned_and_scaled(tmp_path: Path) -> None:
    """A quarter turn about z, in normalised bytes; then x of 1 becomes y of 2."""
    turn = np.array([[0, 0, 90, 90]], "|i1")
    scale = np.array([[2, 3, 1]], "<f4")
    corners = load_corners(write(tmp_path, ".glb", instances(rotation=turn, scale=scale, translation=PLACES[:1])))
    low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    np.testing.assert_allclose([low, high], [[-3, 98, -1], [3, 102, 1]], atol=1e-6)


def skinned(joints: list[dict[str, Any]], inverse: Array | None = None, **node: Any) -> bytes:
    """Return a cube of which the left half follows the first joint, and the right half the second one."""
    weights = np.where(CORNERS[:, [0]] < 0, [[255, 0, 0, 0]], [[0, 255, 0, 0]]).astype("|u1")
    arrays = {"joints": np.tile(np.array([[0, 1, 0, 0]], "|u1"), (8, 1)), "weights": weights}
    attributes: dict[str, Any] = {"POSITION": 0, "JOINTS_0": "joints", "WEIGHTS_0": "weights"}
    skin: dict[str, Any] = {"joints": [2, 3]}
    if inverse is not None:
        arrays["inverse"] = inverse
        skin["inverseBindMatrices"] = "inverse"
    document = {
        "nodes": [{"children": [1, 2, 3], "translation": [0, 0, 7]}, {"mesh": 0, "skin": 0, **node}, *joints],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 1}]}],
        "skins": [skin],
    }
    return with_arrays(document, arrays)


def test_a_skinned_mesh_ignores_its_nodes_transform(tmp_path: Path) -> None:
    """The joints stand where they were bound, above a node that the bind matrices do not know."""
    data = skinned([{}, {}], scale=[9, 9, 9], translation=[50, 0, 0])
    np.testing.assert_allclose(load_corners(write(tmp_path, ".glb", data)), CORNERS[FACES] + [0, 0, 7], atol=1e-6)


def test_a_skinned_mesh_follows_its_joints(tmp_path: Path) -> None:
    """Each joint's own place is undone by its bind matrix, except for the second joint's last step of 2."""
    inverse = np.tile(np.eye(4), (2, 1, 1))
    inverse[:, :3, 3] = [[-3, 0, -7], [-4, 0, -7]]
    data = skinned(
        [{"translation": [3, 0, 0]}, {"translation": [6, 0, 0]}], inverse.swapaxes(1, 2).reshape(2, 16).astype("<f4")
    )
    moved = CORNERS + np.where(CORNERS[:, [0]] > 0, [[2, 0, 0]], 0)
    np.testing.assert_allclose(load_corners(write(tmp_path, ".glb", data)), moved[FACES], atol=1e-6)


def test_a_skinned_mesh_that_was_read_rightly_keeps_its_digits(tmp_path: Path) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = np.linalg.qr(np.array([[1.0, 2, 3], [0, 1, 4], [5, 6, 0]]))[0] / 3
    nodes = [{"mesh": 0, "matrix": matrix.T.ravel().tolist()}]
    plain = load_corners(write(tmp_path, ".glb", glb(nodes=nodes)))
    document = split_glb(skinned([{}, {}]))[0]
    members = {"meshes": document["meshes"], "skins": [{"joints": [1, 1]}], "scenes": [{"nodes": [0, 1]}]}
    data = skinned([{}, {}])
    base, binary = split_glb(data)
    base |= members | {"nodes": [{"mesh": 0, "skin": 0, "matrix": nodes[0]["matrix"]}, {"matrix": nodes[0]["matrix"]}]}
    np.testing.assert_array_equal(load_corners(write(tmp_path, ".glb", pack_glb(json.dumps(base), binary))), plain)


def test_a_camera_does_not_hide_the_mesh_of_its_node(tmp_path: Path) -> None:
    cameras = [{"type": "perspective", "perspective": {"yfov": 1, "znear": 1, "aspectRatio": 1}}]
    nodes = [{"mesh": 0, "camera": 0, "translation": [5, 0, 0], "children": [1]}, {"mesh": 0}]
    corners = load_corners(write(tmp_path, ".glb", glb(nodes=nodes, cameras=cameras)))
    np.testing.assert_array_equal(corners, np.concatenate([CORNERS[FACES] + [5, 0, 0]] * 2))


def test_too_much_posing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gltf_pose, "MAX_POSED_VERTICES", 7)
    with pytest.raises(UnusableItemError, match="poses more than 7 vertices"):
        load_corners(write(tmp_path, ".glb", skinned([{}, {}])))


PRIMITIVE = DOCUMENT["meshes"][0]["primitives"][0]
MANY_PARTS = {
    "instances": instances(translation=PLACES),
    "nodes": glb(nodes=[{"mesh": 0}, {}, {}]),
    "primitives": glb(meshes=[{"primitives": [PRIMITIVE]}, {"primitives": [PRIMITIVE] * 2}]),
    "placed primitives": glb(
        nodes=[{"mesh": 0}] * 2, meshes=[{"primitives": [PRIMITIVE] * 2}], scenes=[{"nodes": [0, 1]}]
    ),
    "roots with parents": glb(
        nodes=[{"children": [1]}, {"mesh": 0}], meshes=[{"primitives": [PRIMITIVE] * 2}], scenes=[{"nodes": [0, 1]}]
    ),
}


@pytest.mark.parametrize("data", MANY_PARTS.values(), ids=MANY_PARTS)
def test_too_many_parts_are_refused(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, ".glb", data)
    load_corners(path)
    monkeypatch.setattr(gltf_pose, "MAX_PARTS", 2)
    with pytest.raises(UnusableItemError, match=r"[34] parts to place, and at most 2 are read; join its meshes"):
        load_corners(path)


def test_many_meshes_that_are_nested_deep_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"children": [1]}, {"children": [2]}, {"children": [3, 4]}, {"mesh": 0}, {"mesh": 0}]
    path = write(tmp_path, ".glb", glb(nodes=nodes))
    load_corners(path)
    monkeypatch.setattr(gltf_pose, "MAX_NESTING", 50)
    with pytest.raises(UnusableItemError, match="too many meshes that are nested deep; export it without"):
        load_corners(path)


UNPOSED: dict[str, tuple[bytes, str]] = {
    "morph targets": (glb(meshes=[DOCUMENT["meshes"][0] | {"weights": [0, 0.5]}]), "morph targets"),
    "morph targets of a node": (glb(nodes=[{"mesh": 0, "weights": [1]}]), "morph targets"),
    "hidden": (glb(nodes=[{"mesh": 0, "extensions": {"KHR_node_visibility": {"visible": False}}}]), "hidden nodes"),
    "uneven instances": (instances(translation=PLACES, scale=PLACES[:2]), "different counts"),
    "joint too far": (skinned([{}]), "cannot be read"),
}


@pytest.mark.parametrize(("data", "reason"), UNPOSED.values(), ids=UNPOSED)
def test_shapes_that_cannot_be_posed_are_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableItemError, match=reason):
        load_corners(write(tmp_path, ".glb", data))
