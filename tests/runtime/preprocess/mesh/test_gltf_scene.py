"""Test which GLB files are refused, and where nodes, instances and skins place their meshes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.array_types import Array
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh import gltf_scene
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
    "without meshes": (glb(meshes=[], nodes=[{}]), "no faces"),
    "too far": (with_accessor(0, count=7), "name vertices 0 to 7 of 7"),
    "short": (with_accessor(0, count=9), "cannot be read"),
    "claim": (with_accessor(0, count=10**12, bufferView=None), "more vertices than"),
    "without data": (with_accessor(0, bufferView=None), "numbers sparsely"),
    "sparse": (with_accessor(0, sparse={"count": 1}), "numbers sparsely"),
    "elsewhere": (glb(buffers=[{"byteLength": 9, "uri": "https://127.0.0.1/x"}]), "not a file of its folder"),
    "compressed": (
        glb(extensionsRequired=["EXT_meshopt_compression"], buffers=[{"byteLength": 168}, {"byteLength": 999}]),
        "needs EXT_meshopt_compression; export it without compression",
    ),
    "nested": (pack_glb("[" * 100_000, b""), "cannot be read"),
    "transform": (
        glb(nodes=[{"mesh": 0, "scale": [1e308] * 3, "translation": [1.7e308] * 3}]),
        "NaN or infinity",
    ),
    "negative": (with_accessor(0, count=-1), "more vertices than"),
    "parents": (glb(nodes=[{"children": [2]}, {"children": [2]}, {"mesh": 0}]), "several parents"),
    "root with a parent": (glb(nodes=[{"mesh": 0, "children": [1]}, {"children": [0]}]), "several parents"),
    "negative child": (glb(nodes=[{"mesh": 0, "children": [-2]}, {}]), "names nodes that are not there"),
    "circle": (glb(nodes=[{"mesh": 0}, {"children": [2]}, {"children": [1]}]), "in a circle"),
}


@pytest.mark.parametrize(("data", "reason"), BAD_FILES.values(), ids=BAD_FILES)
def test_unusable_files_say_why(data: bytes, reason: str, tmp_path: Path, capfd: Any) -> None:
    path = write(tmp_path, ".glb", data)
    with pytest.raises(UnusableItemError, match=reason) as caught:
        prepare(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_triangles_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Nodes, and then the primitives of a mesh. A strip turns every second triangle, and a fan none."""
    primitives = [{"attributes": {"POSITION": 0}, "mode": mode} for mode in (5, 6, 0)]
    nodes = [{"mesh": 0, "translation": [5, 0, 0]}, {"children": [0]}, {"mesh": 0}]
    data = glb(meshes=[{"primitives": primitives}], nodes=nodes, scenes=[{"nodes": [2, 1]}])
    faces = [[0, 1, 2], [1, 3, 2], [2, 3, 4], [3, 5, 4], [4, 5, 6], [5, 7, 6], *([0, i, i + 1] for i in range(1, 7))]
    expected = np.concatenate([CORNERS[faces] + [5, 0, 0], CORNERS[faces]])
    np.testing.assert_array_equal(load_corners(write(tmp_path, ".glb", data)), expected)


def test_normalised_positions_are_read(tmp_path: Path) -> None:
    document = {"meshes": [{"primitives": [{"attributes": {"POSITION": "bytes"}, "indices": 1}]}]}
    data = with_arrays(document, {"bytes": (CORNERS * 127).astype("|i1")})
    np.testing.assert_array_equal(load_corners(write(tmp_path, ".glb", data)), CORNERS[FACES])


def instances(**arrays: Array) -> bytes:
    attributes = {name.upper(): name for name in arrays}
    extensions = {"EXT_mesh_gpu_instancing": {"attributes": attributes}}
    node = {"mesh": 0, "translation": [0, 100, 0], "extensions": extensions}
    return with_arrays({"nodes": [node], "extensionsUsed": [*extensions]}, arrays)


PLACES = np.array([[0, 0, 0], [5, 0, 0], [9, 0, 1]], "<f4")


def test_instances_are_placed(tmp_path: Path) -> None:
    corners = load_corners(write(tmp_path, ".glb", instances(translation=PLACES)))
    expected = np.concatenate([CORNERS[FACES] + place + [0, 100, 0] for place in PLACES])
    np.testing.assert_allclose(corners, expected)


def test_instances_are_turned_and_scaled(tmp_path: Path) -> None:
    """A quarter turn about z, in normalised bytes; then x of 1 becomes y of 2."""
    turn = np.array([[0, 0, 90, 90]], "|i1")
    scale = np.array([[2, 3, 1]], "<f4")
    corners = load_corners(write(tmp_path, ".glb", instances(rotation=turn, scale=scale, translation=PLACES[:1])))
    low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    np.testing.assert_allclose([low, high], [[-3, 98, -1], [3, 102, 1]], atol=1e-6)


def skinned(joints: list[dict[str, Any]], inverse: Array | None = None, **node: Any) -> bytes:
    """Return a cube of which the left half follows the first joint, and the right half the second one, as its sixth."""
    left, right = CORNERS[:, [0]] < 0, CORNERS[:, [0]] > 0
    arrays = {
        "joints": np.tile(np.array([[0, 1, 0, 0]], "|u1"), (8, 1)),
        "weights": (left * [[255, 0, 0, 0]]).astype("|u1"),
        "more": (right * [[0, 255, 0, 0]]).astype("|u1"),
    }
    attributes: dict[str, Any] = {"POSITION": 0, "JOINTS_0": "joints", "WEIGHTS_0": "weights"}
    attributes |= {"JOINTS_1": "joints", "WEIGHTS_1": "more"}
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


def test_too_much_posing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gltf_scene, "MAX_POSED_VERTICES", 7)
    with pytest.raises(UnusableItemError, match="poses more than 7 vertices"):
        load_corners(write(tmp_path, ".glb", skinned([{}, {}])))


PRIMITIVE = DOCUMENT["meshes"][0]["primitives"][0]
MANY_PLACES = {
    "instances": instances(translation=PLACES),
    "nodes": glb(nodes=[{"mesh": 0}] * 2, meshes=[{"primitives": [PRIMITIVE] * 2}], scenes=[{"nodes": [0, 1]}]),
}


@pytest.mark.parametrize("data", MANY_PLACES.values(), ids=MANY_PLACES)
def test_too_many_places_are_refused(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, ".glb", data)
    load_corners(path)
    monkeypatch.setattr(gltf_scene, "MAX_PLACED_PRIMITIVES", 2)
    with pytest.raises(UnusableItemError, match=r"[12] primitives so often that they become [34]; join its meshes"):
        load_corners(path)


UNPOSED: dict[str, tuple[bytes, str]] = {
    "morph targets": (glb(meshes=[DOCUMENT["meshes"][0] | {"weights": [0, 0.5]}]), "morph targets"),
    "morph targets of a node": (glb(nodes=[{"mesh": 0, "weights": [1]}]), "morph targets"),
    "hidden": (glb(nodes=[{"mesh": 0, "extensions": {"KHR_node_visibility": {"visible": False}}}]), "hidden nodes"),
    "uneven instances": (instances(translation=PLACES, scale=PLACES[:2]), "different counts"),
    "skinned instances": (
        skinned([{}, {}], extensions={"EXT_mesh_gpu_instancing": {"attributes": {"A": 0}}}),
        "of a skin",
    ),
    "no such joint": (skinned([{}]), "names nodes that are not there"),
    "too few bind matrices": (skinned([{}, {}], np.eye(4, dtype="<f4").reshape(1, 16)), "cannot be read"),
}


@pytest.mark.parametrize(("data", "reason"), UNPOSED.values(), ids=UNPOSED)
def test_shapes_that_cannot_be_posed_are_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableItemError, match=reason):
        load_corners(write(tmp_path, ".glb", data))
