"""Load meshes, from files or objects, as the corners of their triangles."""

from __future__ import annotations

import os
from textwrap import shorten
from typing import Any, Protocol

import numpy as np

from runtime.array_types import Array, Float64Array
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.mesh.formats import FORMATS, read_mesh_file
from runtime.preprocess.mesh.placement import check_placed_triangles, transform_points
from runtime.preprocess.mesh.polygons import check_indices


class MeshLike(Protocol):
    """A triangle mesh, such as ``trimesh.Trimesh``.

    Attributes:
        vertices: ``[v, 3]`` real numbers, in any unit.
        faces: ``[f, 3]`` integers: indices of the three vertices of each triangle.
    """

    @property
    def vertices(self) -> Any: ...  # noqa: D102
    @property
    def faces(self) -> Any: ...  # noqa: D102


class SceneLike(Protocol):
    """Meshes placed in space, such as ``trimesh.Scene``.

    Attributes:
        geometry: Meshes by name.
        graph: Scene graph. ``nodes_geometry`` has the names of the nodes that place a mesh; ``graph[name]`` is the
            node's ``[4, 4]`` transform and the name of its mesh.
    """

    @property
    def geometry(self) -> Any: ...  # noqa: D102
    @property
    def graph(self) -> Any: ...  # noqa: D102


def load_corners(item: str | os.PathLike[str] | MeshLike | SceneLike) -> Float64Array:
    """Load the triangles of a mesh, in the mesh's own order and unit.

    Args:
        item: The path of a file in one of :data:`~runtime.preprocess.mesh.formats.FORMATS`, a mesh, or a scene, whose
            meshes are transformed to their places.

    Returns:
        ``[triangles, 3, 3]`` float64: the finite corners of each triangle, of at least one triangle.

    Raises:
        UnusableItemError: The item is of another type or damaged, or has no faces or invalid ones.
        MissingDependencyError: A polygon is concave, and mapbox_earcut is not installed.
    """
    if isinstance(item, str | os.PathLike):
        item = read_mesh_file(item)
    try:
        with np.errstate(all="ignore"):  # transforms can overflow; the result is checked below
            is_scene = hasattr(item, "geometry") and hasattr(item, "graph")
            corners = _scene_corners(item) if is_scene else _mesh_corners(item)
    except UnusableItemError:
        raise
    except Exception as exc:  # the caller's object may raise any type
        raise UnusableItemError(f"a {type(item).__name__} cannot be read as a mesh ({shorten(str(exc), 120)})") from exc
    if not np.isfinite(corners).all():
        raise UnusableItemError("its vertices hold NaN or infinity; repair the mesh")
    return corners


def _mesh_corners(mesh: Any) -> Float64Array:
    if not hasattr(mesh, "vertices"):
        raise UnusableItemError(
            f"a {type(mesh).__name__} is not a mesh or a point cloud; give a path to a file of {', '.join(FORMATS)}, "
            "an object with vertices and faces, or an array of points"
        )
    vertices, faces = np.asarray(mesh.vertices), np.asarray(getattr(mesh, "faces", ()))
    if not faces.size:
        raise UnusableItemError(
            "it holds points and no faces; to embed those points, give them as an array, as in "
            "numpy.asarray(trimesh.load(path).vertices)"
            if vertices.size
            else "it holds no faces, so it has no surface; export it as a mesh of triangles"
        )
    _check_mesh(vertices, faces)
    return np.asarray(np.asarray(vertices, np.float64)[faces])


def _check_mesh(vertices: Array, faces: Array) -> None:
    if vertices.dtype.kind not in "fiu" or vertices.ndim != 2 or vertices.shape[1] != 3:
        raise UnusableItemError(f"its vertices are {vertices.dtype} {list(vertices.shape)}; give [v, 3] real numbers")
    if faces.dtype.kind not in "iu" or faces.ndim != 2 or faces.shape[1] != 3:
        raise UnusableItemError(
            f"its faces are {faces.dtype} {list(faces.shape)}; give [f, 3] integers, with all faces cut into triangles"
        )
    check_indices(faces, len(vertices))


def _scene_corners(scene: Any) -> Float64Array:
    placed = [scene.graph[node] for node in scene.graph.nodes_geometry]
    placed = [(transform, name) for transform, name in placed if np.size(getattr(scene.geometry[name], "faces", ()))]
    if not placed:
        points = any(np.size(getattr(shape, "vertices", ())) for shape in scene.geometry.values())
        raise UnusableItemError(f"it holds {'points or lines and ' * points}no faces, so it has no surface to sample")
    corners = {name: _mesh_corners(scene.geometry[name]) for _, name in placed}
    stored, total = sum(map(len, corners.values())), sum(len(corners[name]) for _, name in placed)
    check_placed_triangles(stored, total)
    return np.concatenate(
        [transform_points(np.asarray(transform, np.float64), corners[name]) for transform, name in placed]
    )
