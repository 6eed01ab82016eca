"""Point clouds for the parity check of the mesh backbone and for its golden vectors.

Formulas of this project make them: smooth surfaces, sharp edges and separate parts. Two clouds have equal distances or
equal points, which make the farthest and the nearest point ambiguous.
"""

from __future__ import annotations

import numpy as np

from runtime.array_types import Float32Array, Float64Array

Cloud = Float32Array
_NUM_POINTS = 2048
_TURN = 2 * np.pi


def load_shapes() -> list[Cloud]:
    """Return eight point clouds ``[num_points, 3]`` float32, always the same, neither centred nor scaled.

    Seven clouds have 2048 points; the lattice has 2109.
    """
    shapes = [_sphere(), _cube(), _torus(), _helix(), _cylinder(), _blobs(), _lattice(), _pile()]
    return [shape.astype(np.float32) for shape in shapes]


def _spread(dimensions: int) -> Float64Array:
    """Return points that fill the unit cube, ``[2048, dimensions]``, the same on every machine.

    The square of the index i matters. Without it, the distance of two points depends only on the difference of their
    indices. Most distances would then be equal but for rounding, and the last bit would choose the point.

    Source: Weyl 1916, https://doi.org/10.1007/BF01475864: the fractional parts of i² times an irrational number are
    uniformly distributed.
    """
    points: Float64Array = np.arange(float(_NUM_POINTS))[:, None] ** 2 * np.sqrt([2, 3, 5])[:dimensions] % 1
    return points


def _sphere() -> Float64Array:
    along, around = _spread(2).T
    height = 2 * along - 1
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(_TURN * around), radius * np.sin(_TURN * around), height], axis=1)


def _cube() -> Float64Array:
    """Return the surface of a cube with a corner at the origin: each point moves to one of six faces."""
    points = 10 * _spread(3)
    rows = np.arange(_NUM_POINTS)
    points[rows, rows % 3] = 10 * (rows // 3 % 2)
    return points


def _torus() -> Float64Array:
    around, across = _TURN * _spread(2).T
    radius = 3 + np.cos(across)
    return np.stack([radius * np.cos(around), radius * np.sin(around), np.sin(across)], axis=1) + 100


def _helix() -> Float64Array:
    along, across = _spread(2).T
    angle = 5 * _TURN * along
    return np.stack([np.cos(angle), np.sin(angle), 6 * along + 0.3 * across], axis=1)


def _cylinder() -> Float64Array:
    along, around = _spread(2).T
    return np.stack([np.cos(_TURN * around), 8 * along, np.sin(_TURN * around)], axis=1) / 1000


def _blobs() -> Float64Array:
    """Return two balls of different size, far apart."""
    along, around, outward = _spread(3).T
    height = 2 * along - 1
    width = np.sqrt(1 - height**2)
    ball = np.stack([width * np.cos(_TURN * around), width * np.sin(_TURN * around), height], axis=1)
    ball *= np.cbrt(outward)[:, None]
    return np.where(np.arange(_NUM_POINTS)[:, None] % 3 == 0, ball, 2 * ball + [6, 2, 0])


def _lattice() -> Float64Array:
    """Return all points with integer coordinates at a distance of at most 8 from the origin.

    Most distances between them occur several times. They stay exactly equal after normalization, because the mean of
    the cloud is 0 and its radius is a power of 2.
    """
    axis = np.arange(-8.0, 9.0)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    inside: Float64Array = points[(points**2).sum(axis=1) <= 64]
    return inside


def _pile() -> Float64Array:
    """Return a pyramid of 300 distinct points, fewer than the centroids; each point occurs six or seven times."""
    points = _spread(3)[np.arange(_NUM_POINTS) % 300]
    points[:, :2] *= 1 - points[:, 2:]
    return points
