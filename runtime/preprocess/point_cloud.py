"""Meshes and point clouds: sample the surface, centre on the mean, scale to the unit ball.

All of it is elementwise float64 arithmetic, rounded to float32 once at the end.

Source: R. Osada et al., Shape Distributions, 2002 (https://doi.org/10.1145/571647.571648), section 4.2: random points
on a surface.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from runtime.artifact.manifest import PointCloudPreprocessing
from runtime.preprocess import UnusableItemError, prepare_each
from runtime.preprocess.mesh.triangles import Float64Array, MeshLike, SceneLike, load_corners

PointCloudItem: TypeAlias = "str | os.PathLike[str] | MeshLike | SceneLike | np.ndarray[Any, Any]"
_TOO_LARGE = "its coordinates are so large that their squares overflow; give it in a larger unit"
_TOO_SMALL = "its points are so close together that squares of their distances underflow; give it in a smaller unit"
_MIN_RADIUS = 1e-150  # below the root of the smallest normal float64, 1.5e-154, a square loses its digits


class PointCloudPreprocessor:
    """Prepares meshes and point clouds for a graph."""

    def __init__(self, preprocessing: PointCloudPreprocessing) -> None:
        """Keeps the artifact's record of it."""
        self._preprocessing = preprocessing

    def prepare(self, item: PointCloudItem) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Returns one row of the graph's input.

        The sampling of every mesh starts from the seed anew, so an item's points depend on nothing but the item.

        Args:
            item: A mesh, as anything that :func:`runtime.preprocess.mesh.triangles.load_corners` takes, of which ``num_points``
                points of the surface are taken; or a point cloud, a ``[n, 3]`` array of real numbers in any unit,
                which is taken as it is.

        Returns:
            ``[n, 3]`` float32, with ``n`` the ``num_points`` of the artifact for a mesh. Their mean is the origin, and
            the farthest is at distance 1 of it, up to the rounding to float32.

        Raises:
            UnusableItemError: The item cannot be embedded; the message is the reason.
            MissingDependencyError: It is a file, and trimesh is not installed.
        """
        if isinstance(item, np.ndarray):
            points = _check_cloud(item, self._preprocessing.min_points)
        else:
            points = sample_surface(load_corners(item), self._preprocessing.num_points, self._preprocessing.seed)
        return center_and_scale(points).astype(np.float32)

    def prepare_all(self, items: Sequence[PointCloudItem]) -> list[np.ndarray[Any, Any] | UnusableItemError]:
        """Returns :meth:`prepare` of each item, or what it raises."""
        return prepare_each(self.prepare, items)

    def collate(self, rows: Sequence[np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Returns the graph's input for rows of :meth:`prepare` of one length: ``points``, ``[rows, n, 3]`` float32."""
        return {self._preprocessing.graph_inputs()[0].name: np.stack(rows)}


def sample_surface(corners: Float64Array, num_points: int, seed: int) -> Float64Array:
    """Returns random points of a surface, of the same density everywhere on it.

    Triangles are drawn by their area. In one with corners A, B, C a point is ``(1 - sqrt(u)) A + sqrt(u) (1 - v) B +
    sqrt(u) v C`` with uniform u and v (Osada et al., equation 1). The numbers are of ``numpy.random.RandomState``,
    three for each point, so more points begin with the same ones.

    Source: NEP 19, which freezes the stream of RandomState (https://numpy.org/neps/nep-0019-rng-policy.html).

    Args:
        corners: ``[triangles, 3, 3]`` float64: the corners of each triangle.
        num_points: How many points to take.
        seed: Where the stream starts.

    Returns:
        ``[num_points, 3]`` float64, in the mesh's unit.

    Raises:
        UnusableItemError: There is no area, or it overflows.
    """
    cumulative = np.cumsum(triangle_areas(corners))
    if not np.isfinite(cumulative[-1]):
        raise UnusableItemError(_TOO_LARGE)
    if not cumulative[-1]:
        raise UnusableItemError("its surface has no area, because every face is degenerate; embed its points instead")
    which, u, v = np.random.RandomState(seed).random_sample((num_points, 3)).T
    # From the right: a triangle without area ends where the one before it ends, and is never drawn.
    drawn = corners[np.searchsorted(cumulative, which * cumulative[-1], side="right")]
    weights = np.stack([1 - np.sqrt(u), np.sqrt(u) * (1 - v), np.sqrt(u) * v], axis=1)
    weighted = drawn * weights[:, :, None]
    return np.asarray(weighted[:, 0] + weighted[:, 1] + weighted[:, 2])


def triangle_areas(corners: Float64Array) -> Float64Array:
    """Returns ``[triangles]`` float64 areas of ``[triangles, 3, 3]`` corners, infinity or NaN where they overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        return _lengths(normals) / 2


def center_and_scale(points: Float64Array) -> Float64Array:
    """Returns points moved to have their mean at the origin, then scaled to have the farthest at distance 1.

    Args:
        points: ``[n, 3]`` finite float64.

    Returns:
        ``[n, 3]`` float64, in the same order.

    Raises:
        UnusableItemError: All points are at one place, or so far apart that squares overflow, or so close that they
            underflow.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        # From the first point, equal points are exactly 0 apart, and a cloud far from the origin loses no digits.
        offsets = points - points[0]
        centred = offsets - offsets.mean(axis=0)
        radius = _lengths(centred).max()
    if not np.isfinite(radius):
        raise UnusableItemError(_TOO_LARGE)
    if not radius:
        raise UnusableItemError("all its points are at one place, so there is no size to scale it by; leave it out")
    if radius < _MIN_RADIUS:
        raise UnusableItemError(_TOO_SMALL)
    return np.asarray(centred / radius)


def _lengths(vectors: Float64Array) -> Float64Array:
    x, y, z = vectors.T
    return np.asarray(np.sqrt(x * x + y * y + z * z))


def _check_cloud(array: np.ndarray[Any, Any], min_points: int) -> Float64Array:
    if array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1] != 3:
        raise UnusableItemError(
            f"an array of {array.dtype} {list(array.shape)} is not a point cloud; give [n, 3] floats or integers"
        )
    if len(array) < min_points:
        raise UnusableItemError(f"it has {len(array)} points, and the model takes {min_points} or more; give more")
    with np.errstate(all="ignore"):  # a long double can be beyond it, and a NaN that signals is told of
        points = array.astype(np.float64)
    if not np.isfinite(points).all():
        raise UnusableItemError("its points hold NaN or infinity; remove those points")
    return points
