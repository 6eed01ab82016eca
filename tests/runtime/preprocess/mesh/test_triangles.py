"""Test the triangles of meshes and scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh import placement
from runtime.preprocess.mesh.triangles import load_corners
from tests.runtime.preprocess.cube import CORNERS, FACES, QUADS, PointCloud, cube, cube_file, glb, prepare, write


def test_meshes_of_a_scene_are_placed_by_its_graph(tmp_path: Path) -> None:
    """The file has two cubes; a parent and a child node turn, scale and move one of them."""
    turn = [0.0, 0.0, np.sin(np.pi / 4), np.cos(np.pi / 4)]  # x to y
    nodes = [
        {"mesh": 0},
        {"translation": [10.0, 0, 0], "rotation": turn, "children": [2]},
        {"mesh": 0, "scale": [4, 1, 1]},
    ]
    path = write(tmp_path, ".glb", glb(nodes=nodes, scenes=[{"nodes": [0, 1]}]))
    corners = load_corners(path)
    assert corners.shape == (24, 3, 3)
    plain, moved = corners[:12], corners[12:]
    np.testing.assert_array_equal(plain, CORNERS[FACES])
    np.testing.assert_allclose(moved.min(axis=(0, 1)), [9, -4, -1], atol=1e-12)
    np.testing.assert_allclose(moved.max(axis=(0, 1)), [11, 4, 1], atol=1e-12)


def test_points_and_lines_of_a_scene_are_left_out() -> None:
    scene = trimesh.Scene([PointCloud(CORNERS * 9), trimesh.Trimesh(CORNERS, FACES, process=False)])
    assert prepare(scene).tobytes() == prepare(cube()).tobytes()


def test_the_callers_mesh_is_not_changed() -> None:
    mesh = trimesh.Trimesh(CORNERS * 7, FACES, process=False)
    before = mesh.vertices.tobytes()
    prepare(mesh)
    assert mesh.vertices.tobytes() == before


def test_unused_vertices_are_ignored() -> None:
    assert prepare(cube(vertices=np.vstack([CORNERS, [np.nan, 1, 1]]))).tobytes() == prepare(cube()).tobytes()


def test_a_scene_that_repeats_a_mesh_too_often_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"mesh": 0} for _ in range(10)]
    path = write(tmp_path, ".glb", glb(nodes=nodes, scenes=[{"nodes": list(range(10))}]))
    monkeypatch.setattr(placement, "MAX_PLACED_TRIANGLES", 120)
    assert len(load_corners(path)) == 120
    monkeypatch.setattr(placement, "MAX_PLACED_TRIANGLES", 119)
    for item in (path, trimesh.load(path)):
        with pytest.raises(UnusableItemError, match="12 triangles so often that they become 120"):
            prepare(item)
    monkeypatch.setattr(placement, "MAX_PLACED_TRIANGLES", 3)
    assert len(load_corners(cube_file(tmp_path, ".glb"))) == 12


BAD_MESHES: dict[str, tuple[Any, str]] = {
    "number": (17, "int is not a mesh or a point cloud"),
    "none": (None, "NoneType is not a mesh"),
    "list": ([[0, 0, 0]] * 9, "list is not a mesh"),
    "bytes": (b"ply", "bytes is not a mesh"),
    "nan mesh": (cube(vertices=np.where(CORNERS > 0, CORNERS, np.nan)), "NaN or infinity"),
    "faces out": (cube(vertices=CORNERS[:7]), "name vertices 0 to 7 of 7"),
    "faces negative": (cube(faces=FACES - 1), "name vertices -1 to 6"),
    "no faces": (cube(faces=FACES[:0]), "points and no faces"),
    "no vertices": (cube(vertices=CORNERS[:0], faces=FACES[:0]), "no faces"),
    "no vertices but faces": (cube(vertices=CORNERS[:0]), "name vertices 0 to 7 of 0"),
    "points": (PointCloud(CORNERS), "points and no faces; .* give them as an array"),
    "quads": (cube(faces=np.array(QUADS)), r"faces are int64 \[6, 4\]"),
    "float faces": (cube(faces=FACES * 1.0), "faces are float64"),
    "flat mesh": (cube(vertices=CORNERS[:, :2]), r"vertices are float64 \[8, 2\]"),
    "text mesh": (cube(vertices=CORNERS.astype(str)), "vertices are <U"),
    "ragged mesh": (cube(faces=[[0, 1, 2], [1, 2]]), "cannot be read as a mesh"),
    "no scene": (trimesh.Scene(), "no faces"),
    "point scene": (trimesh.Scene(PointCloud(CORNERS)), "points or lines and no faces"),
}


@pytest.mark.parametrize(("item", "reason"), BAD_MESHES.values(), ids=BAD_MESHES)
def test_unusable_meshes_say_why(item: Any, reason: str) -> None:
    with pytest.raises(UnusableItemError, match=reason):
        load_corners(item)
