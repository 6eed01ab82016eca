"""Decode, orient, convert to RGB, resize and crop images, bit for bit as the transforms of their training.

Source: ``torchvision.transforms._presets.ImageClassification`` and the Pillow branch of
``torchvision.transforms.functional`` (https://github.com/pytorch/vision), which open_clip also uses;
``CLIPImageProcessorPil`` (https://github.com/huggingface/transformers), which differs in the rounding of the crop.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, get_args

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from runtime.array_types import Array, Float32Array, UInt8Array
from runtime.artifact.manifest import ImagePreprocessing, Interpolation
from runtime.preprocess.files import check_regular_file, describe_file_error
from runtime.preprocess.float_resize import resize_floats
from runtime.preprocess.item import UnusableItemError, prepare_each
from runtime.preprocess.silence import SuppressWarnings

ImageItem: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | Array"

_FILTERS = {name: Image.Resampling[name.upper()] for name in get_args(Interpolation)}
_LIMIT = "PIL.Image.MAX_IMAGE_PIXELS, a guard against decompression bombs; downscale it"
_EXIF_TRANSPOSES = {  # EXIF 2.32, tag Orientation: the operation that makes the stored image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow warns of damaged EXIF, unusual frames and large images. An unusable image gets an error of ours instead.
_WITHOUT_WARNINGS = SuppressWarnings("PIL")
# Without a handler, Python prints a library's log records of level warning on standard error.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class ImagePreprocessor:
    """Prepares images for a graph."""

    def __init__(self, preprocessing: ImagePreprocessing) -> None:
        """Prepare images as the artifact's record says."""
        self._preprocessing = preprocessing

    def prepare(self, item: ImageItem) -> Array:
        """Return one row of the graph's input, from an image as for :func:`load_image`.

        Returns:
            ``[crop_size, crop_size, 3]`` uint8 if the graph normalises, otherwise the normalised
            ``[3, crop_size, crop_size]`` float32.

        Raises:
            UnusableItemError: The item cannot be embedded; the message is the reason.
        """
        pixels = resize_and_crop(load_image(item), self._preprocessing)
        return pixels if self._preprocessing.arithmetic == "graph" else pixel_values(pixels, self._preprocessing)

    def prepare_all(self, items: Sequence[ImageItem]) -> list[Array | UnusableItemError]:
        """Return the row of each item, or its error; see :meth:`prepare`."""
        return prepare_each(self.prepare, items)

    def collate(self, rows: Sequence[Array]) -> dict[str, Array]:
        """Return the graph's input by name, ``[rows, ...]``, for rows of :meth:`prepare`."""
        return {self._preprocessing.graph_inputs()[0].name: np.stack(rows)}


def load_image(item: ImageItem) -> Image.Image:
    """Load an upright RGB image.

    - The EXIF orientation is applied, as image viewers do.
    - ``Image.convert("RGB")`` converts grey, palette and CMYK images. Alpha is dropped, not blended, as
      ``torchvision.datasets`` does in training.
    - 16-bit grey keeps its high byte, as torchvision converts 16 to 8 bits. Pillow would clip it to white.

    Args:
        item: A path, the bytes of an image file, a PIL image, or a ``[height, width, 3]`` uint8 RGB array.

    Raises:
        UnusableItemError: The item is of another type, damaged or empty, or has more pixels than
            ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    try:
        with _WITHOUT_WARNINGS:
            image = _open(item)
            _check_size(image.width, image.height)
            turn = _EXIF_TRANSPOSES.get(_orientation(image))
            rgb = _to_rgb(image)
        _check_size(rgb.width, rgb.height)  # again: the image in an ICO file can be larger than its header states
        return rgb if turn is None else rgb.transpose(turn)
    except UnusableItemError:
        raise
    except Exception as exc:  # Pillow's decoders raise SyntaxError, struct.error, EOFError, zlib.error and more
        raise UnusableItemError(_reason(exc)) from exc


def resize_and_crop(image: Image.Image, preprocessing: ImagePreprocessing) -> UInt8Array | Float32Array:
    """Resize an RGB image, and return its ``[crop_size, crop_size, 3]`` centre, with values from 0 to 255.

    The result has the type ``resize_dtype``. Where the crop is larger than the image, it has the colour ``fill``.

    Raises:
        UnusableItemError: The image is so long and thin that the resized image would exceed
            ``PIL.Image.MAX_IMAGE_PIXELS``, or have no pixels.
    """
    width, height = _resized_size(image.width, image.height, preprocessing)
    _check_size(width, height, "resized to ")
    if preprocessing.resize_dtype == "float32":
        kind, antialias = preprocessing.interpolation, preprocessing.antialias
        return _crop(resize_floats(np.asarray(image), height, width, kind, antialias=antialias), preprocessing)
    if (width, height) != image.size:
        image = image.resize((width, height), _FILTERS[preprocessing.interpolation])
    return _crop(np.asarray(image), preprocessing)


def pixel_values(pixels: UInt8Array | Float32Array, preprocessing: ImagePreprocessing) -> Float32Array:
    """Normalise ``[..., height, width, 3]`` pixels from 0 to 255 to ``[..., 3, height, width]`` float32."""
    channels_first = np.moveaxis(pixels, -1, -3).astype(np.float32)
    mean, std = (np.array(each, dtype=np.float32)[:, None, None] for each in (preprocessing.mean, preprocessing.std))
    return np.ascontiguousarray((channels_first / np.float32(255) - mean) / std)


def _crop(pixels: UInt8Array | Float32Array, preprocessing: ImagePreprocessing) -> UInt8Array | Float32Array:
    """Return the centre of ``[height, width, 3]`` pixels, with a border of colour ``fill`` where they are too few."""
    crop, floor = preprocessing.crop_size, preprocessing.crop_rounding == "floor"
    top, left = (_crop_offset(size, crop, floor=floor) for size in pixels.shape[:2])
    centre = pixels[max(top, 0) : top + crop, max(left, 0) : left + crop]
    if centre.shape[:2] == (crop, crop):
        contiguous: Array = np.ascontiguousarray(centre)
        return contiguous
    canvas: Array = np.empty((crop, crop, 3), pixels.dtype)
    canvas[:] = preprocessing.fill
    top, left = max(-top, 0), max(-left, 0)
    canvas[top : top + centre.shape[0], left : left + centre.shape[1]] = centre
    return canvas


def _crop_offset(size: int, crop: int, *, floor: bool) -> int:
    """Return the first row or column of the crop; negative if the image is smaller than the crop."""
    if floor:
        return (size - crop) // 2
    return round((size - crop) / 2) if size >= crop else -((crop - size) // 2)


def _open(item: ImageItem) -> Image.Image:
    if isinstance(item, Image.Image):
        return item
    if isinstance(item, np.ndarray):
        return _from_array(item)
    if isinstance(item, bytes):
        return _read(item)
    if isinstance(item, str | os.PathLike):
        check_regular_file(item)
        return _read(Path(item).read_bytes())
    raise UnusableItemError(f"a {type(item).__name__} is not an image; give a path, bytes, a PIL image or an array")


def _read(data: bytes) -> Image.Image:
    if not data:
        raise UnusableItemError("the file is empty")
    image = Image.open(io.BytesIO(data))
    if image.format == "EPS":
        raise UnusableItemError("it is EPS, a program that Pillow would run in Ghostscript; convert it to PNG")
    return image


def _from_array(array: Array) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise UnusableItemError(
            f"an array of {array.dtype} {list(array.shape)} is not an image; give uint8 [height, width, 3] in RGB order"
        )
    if not array.size:
        raise UnusableItemError(f"the array is empty: {list(array.shape)}")
    return Image.fromarray(array)


def _check_size(width: int, height: int, prefix: str = "") -> None:
    if not width or not height:
        raise UnusableItemError(f"the image is empty: {width} x {height} pixels")
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise UnusableItemError(f"{prefix}{width} x {height} pixels are more than {_LIMIT}")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 by default. ``ImageOps.exif_transpose`` also refuses photos for other bad tags."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001  a damaged EXIF block has no orientation; the pixels may be intact
        return 1
    return orientation if isinstance(orientation, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # 16-bit grey
        return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnusableItemError(f"an image of mode {image.mode} has no agreed range; convert it to 8 bits first")
    return image.convert("RGB")


def _resized_size(width: int, height: int, preprocessing: ImagePreprocessing) -> tuple[int, int]:
    side = preprocessing.resize_size
    if preprocessing.resize == "squash":
        return side, side
    if preprocessing.resize == "long_side":  # rounded as timm's ResizeKeepRatio does
        ratio = max(height / side, width / side)
        return round(width / ratio), round(height / ratio)
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def _reason(exc: Exception) -> str:
    if reason := describe_file_error(exc):
        return reason
    if isinstance(exc, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"it has far more pixels than {_LIMIT}"
    if isinstance(exc, UnidentifiedImageError):
        return "it is not an image in a format that Pillow reads"
    return f"it cannot be decoded ({exc or type(exc).__name__})"
