"""The point clouds on which the mesh backbone's graph is compared with torch, and from which golden vectors are made.

Made by formulas, for this project: smooth surfaces, sharp edges, separate parts, and what makes a search for the
farthest or nearest point stumble: equal distances and equal points.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Cloud = np.ndarray[Any, np.dtype[np.float32]]
_Exact = np.ndarray[Any, np.dtype[np.float64]]

_NUM_POINTS = 2048
_TURN = 2 * np.pi


def load_shapes() -> list[Cloud]:
    """Returns eight clouds ``[num_points, 3]`` float32, neither centred nor scaled, each in a unit of its own.

    Seven have 2048 points, which are always the same; the lattice has 2109.
    """
    shapes = [_sphere(), _cube(), _torus(), _helix(), _cylinder(), _blobs(), _lattice(), _pile()]
    return [shape.astype(np.float32) for shape in shapes]


def _spread(dimensions: int) -> _Exact:
    """Returns points that fill the unit cube, ``[2048, dimensions]``, the same on every machine.

    The squares matter: of i instead of i², the distance between two points depends on the difference of their indices
    alone, so most distances are equal but for rounding, and a change of the last bit chooses other points.

    Source: Weyl 1916, https://doi.org/10.1007/BF01475864: the fractional parts of i² times an irrational are spread
    evenly.
    """
    points: _Exact = np.arange(float(_NUM_POINTS))[:, None] ** 2 * np.sqrt([2, 3, 5])[:dimensions] % 1
    return points


def _sphere() -> _Exact:
    along, around = _spread(2).T
    height = 2 * along - 1
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(_TURN * around), radius * np.sin(_TURN * around), height], axis=1)


def _cube() -> _Exact:
    """Returns the surface of a cube with a corner at the origin: each point is pushed to one of six faces."""
    points = 10 * _spread(3)
    rows = np.arange(_NUM_POINTS)
    points[rows, rows % 3] = 10 * (rows // 3 % 2)
    return points


def _torus() -> _Exact:
    around, across = _TURN * _spread(2).T
    radius = 3 + np.cos(across)
    return np.stack([radius * np.cos(around), radius * np.sin(around), np.sin(across)], axis=1) + 100


def _helix() -> _Exact:
    along, across = _spread(2).T
    angle = 5 * _TURN * along
    return np.stack([np.cos(angle), np.sin(angle), 6 * along + 0.3 * across], axis=1)


def _cylinder() -> _Exact:
    along, around = _spread(2).T
    return np.stack([np.cos(_TURN * around), 8 * along, np.sin(_TURN * around)], axis=1) / 1000


def _blobs() -> _Exact:
    """Returns two balls of different size, far apart."""
    along, around, outward = _spread(3).T
    height = 2 * along - 1
    width = np.sqrt(1 - height**2)
    ball = np.stack([width * np.cos(_TURN * around), width * np.sin(_TURN * around), height], axis=1)
    ball *= np.cbrt(outward)[:, None]
    return np.where(np.arange(_NUM_POINTS)[:, None] % 3 == 0, ball, 2 * ball + [6, 2, 0])


def _lattice() -> _Exact:
    """Returns the points of whole coordinates that are at most 8 from the origin: most distances are equal to others.

    They stay exactly equal when the cloud is centred, for its mean is 0, and scaled, for its radius is a power of 2.
    """
    axis = np.arange(-8.0, 9.0)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    inside: _Exact = points[(points**2).sum(axis=1) <= 64]
    return inside


def _pile() -> _Exact:
    """Returns a pyramid of 300 different points, fewer than the centroids, each there six or seven times."""
    points = _spread(3)[np.arange(_NUM_POINTS) % 300]
    points[:, :2] *= 1 - points[:, 2:]
    return points
