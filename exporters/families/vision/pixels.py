"""Check that the runtime prepares images exactly as the model's own library does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import get_args

import numpy as np
from PIL import Image
from torch import Tensor

from exporters.errors import WeightsError
from exporters.samples.photos import load_photos
from runtime.array_types import Float32Array
from runtime.artifact.manifest import Alpha, ImagePreprocessing
from runtime.preprocess.image import load_image, pixel_values, resize_and_crop

STATE_ALL = (
    "state the whole preprocessing by --preprocessing, or by --resize, --crop, --interpolation, --mean and --std"
)
# Transforms of a library: an image to ``[3, height, width]`` float32; and the runtime's equal.
Preparation = tuple[Callable[[Image.Image], Tensor], ImagePreprocessing]

# Largest difference of a pixel value, as a share of the largest value. Libraries round the same formula in another
# order in the last bits of a float32; floats that are resized add the rounding of a hundred products.
_MAX_ERROR = {"uint8": 1e-6, "float32": 2e-5}
_SHAPES = ((0, 0, 37, 91), (0, 0, 113, 64), (0, 0, 500, 333))  # cut out of photos: small, odd, wide and tall


def check_pixels(transforms: Callable[[Image.Image], Tensor], preprocessing: ImagePreprocessing, library: str) -> None:
    """Check that ``preprocessing`` gives the pixel values of ``transforms`` for the photos that ship with this package.

    Raises:
        WeightsError: It does not.
    """
    error = _measure_error(_probes(), _apply(transforms, _probes()), preprocessing)
    if not error <= _MAX_ERROR[preprocessing.resize_dtype]:
        raise WeightsError(
            f"the runtime cannot prepare images as {library} does: pixel values differ by {error:.2g} of the largest; "
            f"{STATE_ALL}"
        )


def find_equal(
    transforms: Callable[[Image.Image], Tensor], candidates: Iterable[ImagePreprocessing]
) -> ImagePreprocessing | None:
    """Return the first candidate that gives the pixel values of ``transforms``, ``None`` if there is none."""
    return _choose(_probes(), _apply(transforms, _probes()), candidates)


def find_alpha(
    transforms: Callable[[Image.Image], Tensor], preprocessing: ImagePreprocessing
) -> ImagePreprocessing | None:
    """Return ``preprocessing`` with the ``alpha`` of ``transforms``, ``None`` if the runtime has no equal.

    Transforms that take no transparent images leave it as it is.
    """
    try:
        expected = _apply(transforms, _transparent_probes())
    except Exception:  # noqa: BLE001  each library has its own errors for a number of channels
        return preprocessing
    if any(len(each) != 3 for each in expected):  # its model cannot take them
        return preprocessing
    candidates = (replace(preprocessing, alpha=alpha) for alpha in get_args(Alpha))
    return _choose(_transparent_probes(), expected, candidates)


def _choose(
    probes: Sequence[Image.Image], expected: Sequence[Float32Array], candidates: Iterable[ImagePreprocessing]
) -> ImagePreprocessing | None:
    for candidate in candidates:
        if _measure_error(probes, expected, candidate) <= _MAX_ERROR[candidate.resize_dtype]:
            return candidate
    return None


def _apply(transforms: Callable[[Image.Image], Tensor], probes: Sequence[Image.Image]) -> list[Float32Array]:
    return [np.asarray(transforms(image)) for image in probes]


def _measure_error(
    probes: Sequence[Image.Image], expected: Sequence[Float32Array], preprocessing: ImagePreprocessing
) -> float:
    """Return the largest difference of a pixel value, as a share of the largest value; infinite for another shape."""
    worst = 0.0
    for image, theirs in zip(probes, expected, strict=True):
        rgb = load_image(image, preprocessing.alpha)
        ours = pixel_values(resize_and_crop(rgb, preprocessing), preprocessing)
        if theirs.shape != ours.shape:
            return float("inf")
        worst = max(worst, float(np.abs(ours - theirs).max()) / max(float(np.abs(theirs).max()), 1e-6))
    return worst


@cache
def _probes() -> tuple[Image.Image, ...]:
    photos = load_photos()
    return (*photos[:2], *(photo.crop(box) for photo, box in zip(photos, _SHAPES, strict=False)))


@cache
def _transparent_probes() -> tuple[Image.Image, ...]:
    """Return a photo whose opacity rises from left to right, and one with a transparent colour."""
    photo = load_photos()[0].convert("RGB")
    blended, keyed = photo.copy(), photo.quantize(8)
    blended.putalpha(Image.linear_gradient("L").rotate(90).resize(photo.size))
    keyed.info["transparency"] = 0
    return blended, keyed
