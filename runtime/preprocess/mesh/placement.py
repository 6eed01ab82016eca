"""Place meshes in space, and limit how often a scene repeats them."""

from __future__ import annotations

import numpy as np

from runtime.array_types import Float64Array
from runtime.preprocess.item import UnusableItemError

# A scene of a few kilobytes can place one mesh millions of times. Stored triangles are not limited.
MAX_PLACED_TRIANGLES = 20_000_000


def check_placed_triangles(stored: int, placed: int) -> None:
    """Refuse a scene that becomes more than ``MAX_PLACED_TRIANGLES`` because it repeats its ``stored`` triangles.

    Raises:
        UnusableItemError: It does.
    """
    if placed > max(stored, MAX_PLACED_TRIANGLES):
        raise UnusableItemError(f"it places {stored} triangles so often that they become {placed}; simplify the scene")


def transform_points(transforms: Float64Array, points: Float64Array) -> Float64Array:
    """Apply ``[..., 4, 4]`` transforms to ``[..., 3]`` points, without BLAS, whose last bits differ between processors.

    The leading axes broadcast, and a single transform applies to all points.
    """
    x, y, z = (points[..., axis, None] for axis in range(3))
    columns = [transforms[..., :3, column] for column in range(4)]
    return np.asarray(columns[0] * x + columns[1] * y + columns[2] * z + columns[3])


def multiply_transforms(outer: Float64Array, inner: Float64Array) -> Float64Array:
    """Return the ``[..., 4, 4]`` transforms that apply ``inner`` and then ``outer``, without BLAS, too."""
    return np.asarray((outer[..., :, :, None] * inner[..., None, :, :]).sum(axis=-2))
