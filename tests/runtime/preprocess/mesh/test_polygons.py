"""Test the cutting of polygons."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from runtime.array_types import Float64Array
from runtime.errors import MissingDependencyError
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh import polygons
from runtime.preprocess.mesh.polygons import PolygonMesh, cut_polygons, triangle_areas
from runtime.preprocess.mesh.triangles import load_corners
from tests.runtime.preprocess.cube import write

Shape: TypeAlias = "list[tuple[float, float]]"
ARROW: Shape = [(0, 0), (4, 2), (0, 4), (1, 2)]  # a fan from the first corner covers the notch
ANGLE: Shape = [(3, 1), (1, 1), (1, 3), (0, 3), (0, 0), (3, 0)]
STAR: Shape = [
    (r * np.cos(a), r * np.sin(a)) for r, a in zip([1, 3] * 8, np.linspace(0, 2 * np.pi, 17)[:16], strict=True)
]
# A square with a square hole: the outline goes to the hole and back along the same edge.
HOLE: Shape = [(0, 0), (3, 0), (3, 3), (0, 3), (0, 0), (1, 1), (1, 2), (2, 2), (2, 1), (1, 1)]
AREAS = {"arrow": (ARROW, 6), "angle": (ANGLE, 5), "star": (STAR, 24 * np.sin(np.pi / 8)), "hole": (HOLE, 8)}
TILTS = {
    "flat": np.eye(3),
    "upright": np.eye(3)[[0, 2, 1]],
    "tilted": np.linalg.qr(np.array([[1.0, 2, 3], [0, 1, 4], [5, 6, 0]]))[0],
    "far": np.eye(3) * 1e6,
    "small": np.eye(3) * 1e-6,
}
LARGE: Shape = [(0, 0), (1000, 0), (1000, 1000), (0, 1000)]
BOW: Shape = [(0, 0), (1, 1), (1, 0), (0, 1)]
BOW_OF_TWO_SIZES: Shape = [(0, 0), (3, 3), (3, 0), (0, 1)]


def area(*shapes: Shape, tilt: Float64Array = TILTS["flat"]) -> float:
    flat = np.array([point for shape in shapes for point in shape], np.float64)
    vertices = np.pad(flat, ((0, 0), (0, 1))) @ tilt.T
    sizes = np.array([len(shape) for shape in shapes])
    mesh = cut_polygons(PolygonMesh(vertices=vertices, sizes=sizes, indices=np.arange(len(flat))))
    return float(triangle_areas(mesh.vertices[mesh.faces]).sum())


@pytest.mark.parametrize("tilt", TILTS.values(), ids=TILTS)
@pytest.mark.parametrize(("shape", "expected"), AREAS.values(), ids=AREAS)
def test_a_concave_polygon_keeps_its_area(shape: Shape, expected: float, tilt: Float64Array) -> None:
    scale = np.linalg.norm(tilt[0]) ** 2
    for first in range(len(shape)):  # a fan is right from some corners
        turned = shape[first:] + shape[:first]
        assert area(turned, tilt=tilt) == pytest.approx(expected * scale, rel=1e-9)
        assert area(turned[::-1], tilt=tilt) == pytest.approx(expected * scale, rel=1e-9)


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".obj", "{}f 1 2 3 4\n"),
        (".obj", "{}f 1/1/1 2/1/1 3/1/1 4/1/1\nf 1 2 3\n"),
        (".off", "OFF\n4 1 0\n{}4 0 1 2 3\n"),
        (".ply", "ply\nformat ascii 1.0\nelement vertex 4\n{}element face 1\nproperty list uchar int vertex_index\n"),
    ],
)
def test_every_format_cuts_concave_polygons(suffix: str, text: str, tmp_path: Path) -> None:
    rows = [f"{x} {y} 0\n" for x, y in ARROW]
    if suffix == ".ply":
        axes = "".join(f"property float {axis}\n" for axis in "xyz")
        text = text.format(axes) + "end_header\n" + "".join(rows) + "4 0 1 2 3\n"
    else:
        text = text.format("".join("v " * (suffix == ".obj") + row for row in rows))
    expected = 6 + 8 * text.endswith("f 1 2 3\n")
    assert triangle_areas(load_corners(write(tmp_path, suffix, text))).sum() == pytest.approx(expected)


def test_triangles_are_in_the_order_of_their_polygons() -> None:
    """The first polygon is a quad that is not flat."""
    vertices = np.array([[0.0, 0, 0], [1, 0, 0.3], [1, 1, 0], [0, 1, 0.3]])
    indices = np.array([0, 1, 2, 3, 1, 2, 3])
    mesh = cut_polygons(PolygonMesh(vertices=vertices, sizes=np.array([4, 3]), indices=indices))
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [1, 2, 3]]


def test_without_area_a_polygon_has_its_fan() -> None:
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 0, 0], [np.nan] * 3])
    sizes, indices = np.array([4, 4]), np.array([0, 1, 2, 3, 4, 0, 1, 2])
    assert len(cut_polygons(PolygonMesh(vertices=vertices, sizes=sizes, indices=indices)).faces) == 4


@pytest.mark.parametrize("shape", [BOW, BOW_OF_TWO_SIZES])
def test_a_polygon_that_crosses_itself_is_refused_unless_it_is_tiny(shape: Shape) -> None:
    with pytest.raises(UnusableItemError, match="cross themselves"):
        area(shape)
    assert area(LARGE, shape) == pytest.approx(1e6, rel=1e-3)


def test_large_concave_polygons_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polygons, "MAX_CONCAVE_CORNERS", 5)
    assert area(ARROW) == pytest.approx(6)
    with pytest.raises(UnusableItemError, match="concave polygon of 6 corners"):
        area(ANGLE)


def test_without_earcut_concave_polygons_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mapbox_earcut", None)
    assert area(LARGE) == 1e6
    with pytest.raises(MissingDependencyError, match=r"pip install 'embedding-backbones\[mesh\]'"):
        area(ARROW)
