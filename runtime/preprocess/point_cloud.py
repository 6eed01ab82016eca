"""Sample the surface of meshes, and move and scale point clouds into the unit ball.

All arithmetic is elementwise float64, rounded to float32 once at the end.

Source: R. Osada et al., Shape Distributions, 2002 (https://doi.org/10.1145/571647.571648), section 4.2: random points
on a surface.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from runtime.array_types import Array, Float32Array, Float64Array
from runtime.artifact.manifest import PointCloudPreprocessing
from runtime.preprocess.item import UnusableItemError, prepare_each
from runtime.preprocess.mesh.polygons import triangle_areas
from runtime.preprocess.mesh.triangles import MeshLike, SceneLike, load_corners

PointCloudItem: TypeAlias = "str | os.PathLike[str] | MeshLike | SceneLike | Array"
_TOO_LARGE = "its coordinates are so large that their squares overflow; give it in a larger unit"
_TOO_SMALL = "its points are so close together that squares of distances underflow; give it in a smaller unit"
_MIN_RADIUS = 1e-150  # below the root of the smallest normal float64, 1.5e-154, a square loses its digits


class PointCloudPreprocessor:
    """Prepares meshes and point clouds for a graph."""

    def __init__(self, preprocessing: PointCloudPreprocessing) -> None:
        """Prepare meshes and point clouds as the artifact's record says."""
        self._preprocessing = preprocessing

    def prepare(self, item: PointCloudItem) -> Float32Array:
        """Return one row of the graph's input. It depends only on the item, because every mesh has the same seed.

        Args:
            item: A mesh, as for :func:`runtime.preprocess.mesh.triangles.load_corners`, from which ``num_points``
                points are sampled. Or a point cloud, which keeps all its points: ``[n, 3]`` real numbers in any unit.

        Returns:
            ``[n, 3]`` float32. The mean of the points is the origin, and the farthest point is at distance 1, up to
            the rounding to float32.

        Raises:
            UnusableItemError: The item cannot be embedded; the message is the reason.
            MissingDependencyError: A polygon is concave, and mapbox_earcut is not installed.
        """
        if isinstance(item, np.ndarray):
            points = _check_cloud(item, self._preprocessing.min_points)
        else:
            points = sample_surface(load_corners(item), self._preprocessing.num_points, self._preprocessing.seed)
        return center_and_scale(points).astype(np.float32)

    def prepare_all(self, items: Sequence[PointCloudItem]) -> list[Array | UnusableItemError]:
        """Return the row of each item, or its error; see :meth:`prepare`."""
        return prepare_each(self.prepare, items)

    def collate(self, rows: Sequence[Array]) -> dict[str, Array]:
        """Return the graph's input by name, ``[rows, n, 3]`` float32, for rows of one length."""
        return {self._preprocessing.graph_inputs()[0].name: np.stack(rows)}


def sample_surface(corners: Float64Array, num_points: int, seed: int) -> Float64Array:
    """Sample random points of a surface with uniform density.

    Triangles are drawn in proportion to their area. In a triangle with corners A, B and C, a point is
    ``(1 - sqrt(u)) A + sqrt(u) (1 - v) B + sqrt(u) v C`` with uniform u and v (Osada et al., equation 1).
    ``numpy.random.RandomState`` gives three numbers per point, so a larger sample begins with the smaller one.

    Source: NEP 19, which freezes the stream of RandomState (https://numpy.org/neps/nep-0019-rng-policy.html).

    Args:
        corners: ``[triangles, 3, 3]`` float64: the corners of each triangle.
        num_points: Number of points.
        seed: Seed of the random numbers.

    Returns:
        ``[num_points, 3]`` float64, in the mesh's unit.

    Raises:
        UnusableItemError: The area is zero, or overflows.
    """
    cumulative = np.cumsum(triangle_areas(corners))
    if not np.isfinite(cumulative[-1]):
        raise UnusableItemError(_TOO_LARGE)
    if not cumulative[-1]:
        raise UnusableItemError("its surface has no area, because every face is degenerate; embed its points instead")
    which, u, v = np.random.RandomState(seed).random_sample((num_points, 3)).T
    # side="right": a triangle of zero area ends where the triangle before it ends, and is never drawn.
    drawn = corners[np.searchsorted(cumulative, which * cumulative[-1], side="right")]
    weights = np.stack([1 - np.sqrt(u), np.sqrt(u) * (1 - v), np.sqrt(u) * v], axis=1)
    weighted = drawn * weights[:, :, None]
    return np.asarray(weighted[:, 0] + weighted[:, 1] + weighted[:, 2])


def center_and_scale(points: Float64Array) -> Float64Array:
    """Move the mean of ``[n, 3]`` finite float64 points to the origin, then scale the farthest one to distance 1.

    Raises:
        UnusableItemError: All points are at one place, or their squared distances overflow or underflow.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        # Offsets from the first point are exactly 0 for equal points, and keep their digits far from the origin.
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


def _check_cloud(array: Array, min_points: int) -> Float64Array:
    if isinstance(array, np.ma.MaskedArray):
        raise UnusableItemError("a masked array is not a point cloud; leave masked points out")
    if array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1] != 3:
        raise UnusableItemError(
            f"an array of {array.dtype} {list(array.shape)} is not a point cloud; give [n, 3] floats or integers"
        )
    if len(array) < min_points:
        raise UnusableItemError(f"it has {len(array)} points, and the model takes {min_points} or more; give more")
    with np.errstate(all="ignore"):  # a long double can overflow, and a signaling NaN warns
        points = array.astype(np.float64)
    if not np.isfinite(points).all():
        raise UnusableItemError("its points hold NaN or infinity; remove those points")
    return points
