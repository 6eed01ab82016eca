"""Images as another light, and another camera, would have given them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import numpy as np

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def vary_exposure(images: Sequence[Pixels]) -> list[Pixels]:
    """Returns each image once more: dark, bright, as a negative, or with red and blue exchanged, in turn.

    Args:
        images: ``[height, width, 3]`` uint8 each.
    """
    return [np.ascontiguousarray(vary(image)) for vary, image in zip(cycle(_VARIATIONS), images)]


_VARIATIONS: tuple[Callable[[Pixels], Pixels], ...] = (
    lambda image: image // 4,
    lambda image: 255 - (255 - image) // 4,
    lambda image: 255 - image,
    lambda image: image[..., ::-1],
)
