"""Vary the exposure and the colours of images, so that calibration covers other light and other cameras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np

from runtime.array_types import Array


def vary_exposure(images: Sequence[Array]) -> list[Array]:
    """Vary each RGB image, in turn: darker, brighter, negative, or with red and blue swapped.

    An image is ``[height, width, 3]``, with values from 0 to 255.
    """
    return [np.ascontiguousarray(vary(image)) for vary, image in zip(cycle(_VARIATIONS), images)]


_VARIATIONS: tuple[Callable[[Array], Array], ...] = (
    lambda image: image // 4,
    lambda image: 255 - (255 - image) // 4,
    lambda image: 255 - image,
    lambda image: image[..., ::-1],
)
