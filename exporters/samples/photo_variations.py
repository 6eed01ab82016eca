"""Vary the exposure and the colours of images, so that calibration covers other light and other cameras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np

from runtime.array_types import UInt8Array


def vary_exposure(images: Sequence[UInt8Array]) -> list[UInt8Array]:
    """Vary each RGB image ``[height, width, 3]``, in turn: darker, brighter, negative, or with red and blue swapped."""
    return [np.ascontiguousarray(vary(image)) for vary, image in zip(cycle(_VARIATIONS), images)]


_VARIATIONS: tuple[Callable[[UInt8Array], UInt8Array], ...] = (
    lambda image: image // 4,
    lambda image: 255 - (255 - image) // 4,
    lambda image: 255 - image,
    lambda image: image[..., ::-1],
)
