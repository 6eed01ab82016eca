"""Vary the exposure and the colours of images, so that calibration covers other light and other cameras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import numpy as np

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def vary_exposure(images: Sequence[Pixels]) -> list[Pixels]:
    """Return one variation of each image, in turn: darker, brighter, negative, or with red and blue swapped.

    Args:
        images: ``[height, width, 3]`` uint8 RGB each.
    """
    return [np.ascontiguousarray(vary(image)) for vary, image in zip(cycle(_VARIATIONS), images)]


_VARIATIONS: tuple[Callable[[Pixels], Pixels], ...] = (
    lambda image: image // 4,
    lambda image: 255 - (255 - image) // 4,
    lambda image: 255 - image,
    lambda image: image[..., ::-1],
)
