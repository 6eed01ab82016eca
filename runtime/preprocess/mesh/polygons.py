"""Cut polygons into triangles. Fans where they are right, earcut (mapbox_earcut) elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.array_types import Array, Float64Array
from runtime.errors import needs_extra
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.memory_limit import ask_for_memory

MAX_CONCAVE_CORNERS = 4096  # earcut takes quadratic time for hostile polygons
_NO_AREA = 1e-6  # of a polygon's own area
_MAX_WRONG_AREA = 1e-3  # of the mesh's area
# Bytes of a triangle: its indices, its corners and what its area takes; and to be cut from a polygon.
_TRIANGLE_BYTES, _CUT_BYTES = 200, 200
_CONCAVE_BYTES = 1200  # of a concave polygon, whose triangles are arrays of their own


@dataclass(frozen=True, kw_only=True)
class PolygonMesh:
    """Polygons as a file holds them.

    Attributes:
        vertices: ``[v, 3]`` float64.
        sizes: ``[p]`` int64: number of corners of each polygon, in the order of the file.
        indices: ``[sum(sizes)]`` int64: the corners of all polygons, as indices of vertices that count from 0.
    """

    vertices: Float64Array
    sizes: Array
    indices: Array


@dataclass(frozen=True, kw_only=True)
class TriangleMesh:
    """A mesh as :class:`~runtime.preprocess.mesh.triangles.MeshLike` describes it."""

    vertices: Float64Array
    faces: Array


def cut_polygons(mesh: PolygonMesh) -> TriangleMesh:
    """Cut polygons into triangles that cover the same surface, in the order of the polygons.

    Raises:
        UnusableItemError: A polygon has fewer than three corners; or the polygons are not all triangles, and one names
            a vertex that is not there or crosses itself. Who reads the triangles checks the vertices that they name.
        MissingDependencyError: A polygon is concave, and mapbox_earcut is not installed.
        TooLittleMemoryError: The triangles need more memory than the limit of the thread.
    """
    if len(mesh.sizes) and mesh.sizes.min() < 3:
        raise UnusableItemError(f"it has a face of {mesh.sizes.min()} corners; repair it")
    is_cut = bool((mesh.sizes == 3).all())  # the usual case, and an empty mesh
    triangles = int(mesh.sizes.sum()) - 2 * len(mesh.sizes)
    needed = triangles * (_TRIANGLE_BYTES + _CUT_BYTES * (not is_cut))
    ask_for_memory(needed)
    if is_cut:
        return TriangleMesh(vertices=mesh.vertices, faces=mesh.indices.reshape(-1, 3))
    check_indices(mesh.indices, len(mesh.vertices))
    with np.errstate(all="ignore"):  # NaN and overflow are refused later
        parts = _cut_groups(mesh, needed)
    owner, step, faces = (np.concatenate(column) for column in zip(*parts, strict=True))
    return TriangleMesh(vertices=mesh.vertices, faces=faces[np.lexsort((step, owner))])


def check_indices(indices: Array, count: int) -> None:
    """Check the indices of vertices, integers of any shape, which count from 0.

    Raises:
        UnusableItemError: An index names none of ``count`` vertices.
    """
    if indices.size and (indices.min() < 0 or indices.max() >= count):
        raise UnusableItemError(
            f"its faces name vertices {indices.min()} to {indices.max()} of {count} that count from 0; repair it"
        )


def triangle_areas(corners: Float64Array) -> Float64Array:
    """Return the areas, ``[triangles]`` float64, of ``[triangles, 3, 3]`` corners. Overflow gives infinity or NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        x, y, z = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).T
        return np.asarray(np.sqrt(x * x + y * y + z * z) / 2)


_Part = tuple[Array, Array, Array]


def _cut_groups(mesh: PolygonMesh, asked: int) -> list[_Part]:
    """Return the owner, the step and the corners of all triangles, in parts. ``asked`` bytes are there for them."""
    starts = np.cumsum(mesh.sizes) - mesh.sizes
    parts: list[_Part] = []
    crossing = 0.0
    for size in np.unique(mesh.sizes):
        owner = np.flatnonzero(mesh.sizes == size)
        polygons = mesh.indices[starts[owner][:, None] + np.arange(size)]
        fits = _fan_fits(mesh.vertices, polygons)
        asked += _CONCAVE_BYTES * int((~fits).sum())
        ask_for_memory(asked)
        parts.append(_label(owner[fits], polygons[fits][:, fan(size)]))
        for index in np.flatnonzero(~fits):
            cut, wrong = _cut_concave(mesh.vertices[polygons[index]])
            parts.append(_label(owner[[index]], polygons[index][cut][None]))
            crossing += wrong
    if crossing:
        total = sum(triangle_areas(mesh.vertices[faces]).sum() for _, _, faces in parts)
        if crossing > total * _MAX_WRONG_AREA:
            raise UnusableItemError("it has polygons that cross themselves; cut them into triangles")
    return parts


def _label(owner: Array, faces: Array) -> _Part:
    count = faces.shape[1]
    return np.repeat(owner, count), np.tile(np.arange(count), len(owner)), faces.reshape(-1, 3)


def fan(size: int) -> Array:
    """Return the triangles of a polygon that is cut from its first corner, ``[size - 2, 3]`` of its corners."""
    second = np.arange(1, size - 1)
    return np.stack([np.zeros_like(second), second, second + 1], axis=1)


def _fan_fits(vertices: Float64Array, polygons: Array) -> Array:
    """Return for each polygon whether no triangle of its fan is turned over, and so no two overlap."""
    points = vertices[polygons] - vertices[polygons[:, :1]]
    size = np.abs(points).max(axis=(1, 2), keepdims=True)
    points /= np.where(size > 0, size, 1)
    normals = np.cross(points[:, 1:-1], points[:, 2:])
    total = normals.sum(axis=1, keepdims=True)
    along, square = (normals * total).sum(axis=2), (total * total).sum(axis=(1, 2))
    lengths = np.sqrt((normals * normals).sum(axis=2)).sum(axis=1)
    turned = (along < -_NO_AREA * square[:, None]).any(axis=1)
    cancelled = lengths * _NO_AREA > np.sqrt(square) + 1e-12
    return np.asarray(~(turned | cancelled))


def _cut_concave(points: Float64Array) -> tuple[Array, float]:
    """Cut one polygon in its projection along its normal.

    Returns:
        The corners of the triangles, and the area of the polygon if it crosses itself, else 0.
    """
    if len(points) > MAX_CONCAVE_CORNERS:
        raise UnusableItemError(f"it has a concave polygon of {len(points)} corners; cut it into triangles")
    size = np.abs(points - points[0]).max()
    shape = (points - points[0]) / size
    normal = np.cross(shape[1:-1], shape[2:]).sum(axis=0)
    length = np.sqrt((normal * normal).sum())
    if length <= _NO_AREA**2:
        return fan(len(points)), float(_areas(shape, fan(len(points))).sum() * size**2)
    across = np.cross(normal / length, np.eye(3)[np.abs(normal).argmin()])
    across /= np.sqrt((across * across).sum())
    flat = np.stack([(shape * axis).sum(axis=1) for axis in (across, np.cross(normal / length, across))], axis=1)
    cut = _earcut(flat)
    if abs(_areas(flat, cut).sum() - length / 2) <= _NO_AREA * length:
        return cut, 0.0
    return cut, float(_areas(flat, fan(len(flat))).sum() * size**2)


def _areas(points: Float64Array, triangles: Array) -> Float64Array:
    """Return the areas of triangles of points in the plane or in space."""
    if points.shape[1] == 2:
        points = np.pad(points, ((0, 0), (0, 1)))
    return triangle_areas(points[triangles])


def _earcut(flat: Float64Array) -> Array:
    with needs_extra("mesh", "a mesh with concave polygons"):
        from mapbox_earcut import triangulate_float64
    corners = triangulate_float64(flat, np.array([len(flat)], np.uint32))
    return np.asarray(corners, np.int64).reshape(-1, 3)
