"""Bound the memory that preparing an image takes, from the header of its file."""

from __future__ import annotations

import io

from PIL import Image

from runtime.artifact.manifest import ImagePreprocessing
from runtime.preprocess.image import WITHOUT_WARNINGS, is_allowed, is_transparent, open_image, resized_size, tile_size

_USUAL_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP")
_USUAL_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
_USUAL_MAX_PIXELS = 89_478_485  # of PIL.Image.MAX_IMAGE_PIXELS


def preparing_bytes(data: bytes, preprocessing: ImagePreprocessing) -> int:
    """Return the memory that preparing the bytes of a file needs at most; 0 if it is no image, or too large.

    Measured on 12 to 36 million pixels, decoding took these bytes for each: JPEG, PNG, GIF and BMP up to 10, CMYK 12,
    WebP 16, and JPEG 2000 with alpha 24. To put a decoded image on white takes 16. An icon counts as the largest
    allowed image, because it can hold more pixels than it states. A tile of a TIFF is in memory beside the image, and
    can be larger.
    """
    try:
        with WITHOUT_WARNINGS:
            image = open_image(io.BytesIO(data))
            (width, height), (tile_width, tile_height) = image.size, tile_size(image)
    except Exception:  # noqa: BLE001  see load_image
        return 0
    if not (is_allowed(width, height) and is_allowed(tile_width, tile_height)):
        return 0
    pixels = width * height + tile_width * tile_height
    if image.format in ("ICO", "ICNS"):
        pixels = Image.MAX_IMAGE_PIXELS or _USUAL_MAX_PIXELS
    usual = image.format in (*_USUAL_FORMATS, "ICO", "ICNS") and image.mode in _USUAL_MODES
    usual_bytes = 16 if preprocessing.alpha == "white" and is_transparent(image) else 10
    return pixels * (usual_bytes if usual else 26) + _resizing_bytes(width, height, preprocessing)


def _resizing_bytes(width: int, height: int, preprocessing: ImagePreprocessing) -> int:
    """Return the memory that resizing needs at most. A thin image becomes far larger before it is cropped."""
    if not width or not height:
        return 0
    resized = resized_size(width, height, preprocessing)
    if not is_allowed(*resized):
        return 0  # it is refused
    cropped = preprocessing.crop_size * max(width, height)  # one side is resized and cropped, the other is not yet
    if preprocessing.resize_dtype == "float32":
        return 40 * cropped + 3 * width * height
    return 11 * resized[0] * resized[1] + 4 * resized[0] * height
