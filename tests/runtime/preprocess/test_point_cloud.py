"""Test sampling, centring and scaling of meshes and point clouds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from runtime.artifact.json_schema import decode
from runtime.artifact.manifest import PointCloudPreprocessing
from runtime.errors import ManifestError, UsageError
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.point_cloud import PointCloudPreprocessor, center_and_scale, sample_surface
from tests.runtime.preprocess.cube import CORNERS, FACES, RECIPE, cube, cube_file, glb, prepare


def test_the_sampling_never_changes() -> None:
    """Existing artifacts rely on these numbers."""
    expected = [
        [0.019500344041181228, 1.0, 0.6913773870693902],
        [-0.15919093128757922, 1.0, 0.30177540203969855],
        [-0.931370776238013, -1.0, 0.8886746684191851],
    ]
    np.testing.assert_array_equal(sample_surface(CORNERS[FACES], 3, seed=0), expected)
    golden = [
        [0.06679404, 0.57156855, 0.40801188],
        [-0.03666652, 0.57156855, 0.18243602],
        [-0.48375139, -0.58641261, 0.52224517],
    ]
    np.testing.assert_allclose(prepare(cube())[:3], golden, rtol=0, atol=1e-7)


def test_a_larger_sample_begins_with_the_smaller_one() -> None:
    few, many = (sample_surface(CORNERS[FACES], count, seed=3) for count in (10, 100))
    np.testing.assert_array_equal(few, many[:10])


def test_another_seed_gives_other_points() -> None:
    assert not np.isin(prepare(cube(), seed=1), prepare(cube())).any()


def test_items_do_not_depend_on_earlier_items(tmp_path: Path) -> None:
    path = cube_file(tmp_path, ".ply")
    preprocessor = PointCloudPreprocessor(RECIPE)
    first = preprocessor.prepare(path).tobytes()
    preprocessor.prepare(trimesh.creation.icosphere())
    np.random.seed(1)
    assert preprocessor.prepare(path).tobytes() == first
    assert np.random.random() == np.random.RandomState(1).random_sample()


@pytest.mark.process
def test_the_same_file_gives_the_same_points_in_another_process(tmp_path: Path) -> None:
    """The order of several meshes must not depend on a hash or a random name."""
    path = tmp_path / "scene.glb"
    two_primitives = [{"attributes": {"POSITION": 0}, "indices": 1}] * 2
    nodes = [{"mesh": 0, "translation": [5.0 * index, 0, 0], "name": f"part {index}"} for index in range(7)]
    path.write_bytes(glb(meshes=[{"primitives": two_primitives}], nodes=nodes, scenes=[{"nodes": list(range(7))}]))
    code = f"""
import hashlib
from runtime.artifact.manifest import PointCloudPreprocessing
from runtime.preprocess.point_cloud import PointCloudPreprocessor
points = PointCloudPreprocessor(PointCloudPreprocessing(num_points=64, min_points=4, seed=0)).prepare({str(path)!r})
print(hashlib.sha256(points.tobytes()).hexdigest())
"""
    digests = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-W", "error", "-c", code]
        digests.add(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)
    assert len(digests) == 1


def test_points_lie_on_their_triangles() -> None:
    corners = np.random.RandomState(0).normal(size=(1, 3, 3))
    points = sample_surface(corners, 500, seed=0)
    a, b, c = corners[0]
    weights = np.linalg.solve(np.stack([a, b, c], axis=1), points.T)
    np.testing.assert_allclose(weights.sum(axis=0), 1)
    assert weights.min() > 0


def test_points_are_uniform_in_a_triangle() -> None:
    """Each of the four congruent parts of a right triangle gets a quarter of the points."""
    corners = np.array([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]])
    x, y, _ = sample_surface(corners, 40_000, seed=0).T
    parts = [np.mean(part) for part in (x > 0.5, y > 0.5, x + y < 0.5)]
    np.testing.assert_allclose(parts, 0.25, atol=0.01)


def test_triangles_are_drawn_by_their_area() -> None:
    """Triangles of areas 1, 0, 3 and 6 lie far apart, so that the place of a point shows its triangle."""
    shape = np.array([[0.0, 0, 0], [2, 0, 0], [0, 1, 0]])
    sizes = [1.0, 0.0, 3.0, 6.0]
    corners = np.stack([shape * [1, size, 1] + [0, 0, 10 * index] for index, size in enumerate(sizes)])
    z = sample_surface(corners, 40_000, seed=0)[:, 2]
    shares = np.bincount(np.round(z / 10).astype(int), minlength=4) / len(z)
    np.testing.assert_allclose(shares, [0.1, 0, 0.3, 0.6], atol=0.01)


def test_place_and_size_of_a_mesh_do_not_matter() -> None:
    expected = prepare(cube())
    moved = prepare(cube(vertices=CORNERS * 0.003 + [70.0, -20.0, 1.0]))
    np.testing.assert_allclose(moved, expected, atol=1e-6)


@pytest.mark.parametrize(("scale", "offset"), [(1e-3, 0.0), (1e6, 0.0), (1.0, 5e6), (1e150, 0.0), (1e-150, 0.0)])
def test_place_and_size_of_a_cloud_do_not_matter(scale: float, offset: float) -> None:
    cloud = np.random.RandomState(0).randint(-1000, 1000, size=(50, 3)) / 64
    np.testing.assert_allclose(prepare(cloud * scale + offset), prepare(cloud), atol=2e-7)


def test_a_cloud_keeps_its_points() -> None:
    """The mean is (1, 1, 0), and the farthest points are at distance 1."""
    cloud = np.array([[0, 1, 0], [2, 1, 0], [1, 1.5, 0], [1, 0.5, 0]])
    expected = np.array([[-1, 0, 0], [1, 0, 0], [0, 0.5, 0], [0, -0.5, 0]], dtype=np.float32)
    before = cloud.copy()
    np.testing.assert_array_equal(prepare(cloud), expected)
    np.testing.assert_array_equal(cloud, before)
    assert prepare(cloud).dtype == np.float32
    np.testing.assert_array_equal(prepare(np.flipud(cloud)), np.flipud(expected))
    assert prepare(cloud).shape[0] < RECIPE.num_points


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", ">f4", "i1", "i8", "u1", "u8"])
def test_every_real_dtype_is_a_cloud(dtype: str) -> None:
    cloud = np.random.RandomState(0).randint(0, 100, size=(20, 3))
    np.testing.assert_array_equal(prepare(cloud.astype(dtype)), prepare(cloud))


def test_far_and_small_clouds_keep_their_digits() -> None:
    """Unsigned integers do not wrap around, and squares do not overflow float16."""
    assert prepare(np.array([[0, 0, 0], [255, 0, 0], [0, 9, 0], [1, 1, 1]], np.uint8))[0, 0] < 0
    assert np.isfinite(prepare(np.array([[0, 0, 0], [6e4, 0, 0], [0, 9, 0], [1, 1, 1]], np.float16))).all()


def test_a_batch_is_its_rows() -> None:
    preprocessor = PointCloudPreprocessor(RECIPE)
    rows = [preprocessor.prepare(item) for item in (cube(), cube(faces=FACES[:6]))]
    batch = preprocessor.collate(rows)
    assert list(batch) == [RECIPE.graph_inputs()[0].name] == ["points"]
    assert batch["points"].shape == (2, 256, 3)
    assert batch["points"].dtype == np.float32
    np.testing.assert_array_equal(batch["points"][1], rows[1])


TOO_LARGE = "squares overflow; give it in a larger unit"
BAD_ITEMS: dict[str, tuple[Any, str]] = {
    "flat": (np.zeros(12), r"float64 \[12\] is not a point cloud; give \[n, 3\]"),
    "two columns": (np.zeros((12, 2)), r"float64 \[12, 2\] is not a point cloud"),
    "masked": (np.ma.masked_less(np.eye(12, 3), 1), "a masked array is not a point cloud"),
    "stack": (np.zeros((2, 12, 3)), r"\[2, 12, 3\] is not a point cloud"),
    "complex": (np.zeros((12, 3), complex), "complex128"),
    "bool": (np.zeros((12, 3), bool), "bool"),
    "object": (np.zeros((12, 3), object), "object"),
    "no points": (np.zeros((0, 3)), "it has 0 points, and the model takes 4 or more"),
    "few points": (np.eye(3), "it has 3 points, and the model takes 4 or more"),
    "nan": (np.full((9, 3), np.nan), "NaN or infinity"),
    "infinity": (np.where(np.arange(9)[:, None] == 3, np.inf, np.zeros(3)), "NaN or infinity"),
    "one place": (np.full((9, 3), 0.1), "at one place"),
    "long double": (np.full((9, 3), np.longdouble("1e4000")), "NaN or infinity"),
    "tiny cloud": (np.eye(4, 3) * 1e-160, "underflow; give it in a smaller unit"),
    "huge cloud": (np.eye(4, 3) * 1e200, TOO_LARGE),
    "huger cloud": (np.array([[1e308, 0, 0], [-1e308, 0, 0]] * 2), TOO_LARGE),
    "huge mesh": (cube(vertices=CORNERS * 1e100), TOO_LARGE),
    "huger mesh": (cube(vertices=CORNERS * 1e308), TOO_LARGE),
    "no area": (cube(faces=FACES[:, [0, 0, 0]]), "no area, because every face is degenerate"),
}


@pytest.mark.parametrize(("item", "reason"), BAD_ITEMS.values(), ids=BAD_ITEMS)
def test_unusable_items_say_why(item: Any, reason: str) -> None:
    with pytest.raises(UnusableItemError, match=reason):
        prepare(item)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"min_points": 1}, "min_points 1 is not from 2 to num_points 256"),
        ({"min_points": 257}, "min_points 257"),
        ({"num_points": 0}, "num_points 0"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**32}, "seed 4294967296"),
    ],
)
def test_impossible_records_are_refused(changes: dict[str, int], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        prepare(cube(), **changes)


def test_the_record_is_read_back_as_it_was_written() -> None:
    document = json.loads(json.dumps(vars(RECIPE)))
    assert decode(PointCloudPreprocessing, document, "preprocessing") == RECIPE
    with pytest.raises(ManifestError, match="scaling is 'box' instead of 'farthest_point'"):
        decode(PointCloudPreprocessing, document | {"scaling": "box"}, "preprocessing")


def test_the_largest_seed_is_taken() -> None:
    assert prepare(cube(), seed=2**32 - 1).shape == (256, 3)


def test_equal_points_far_away_are_not_scaled_up() -> None:
    """The mean of equal numbers can differ from them in the last bit. That difference must not be scaled up."""
    with pytest.raises(UnusableItemError, match="at one place"):
        center_and_scale(np.full((1000, 3), 1e6 + 0.1))
