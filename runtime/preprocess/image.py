"""Images: decode, orient, convert to RGB, resize, crop; bit for bit what the transforms of their training do.

Source: ``torchvision.transforms._presets.ImageClassification`` and the Pillow branch of
``torchvision.transforms.functional`` (https://github.com/pytorch/vision), which open_clip uses too;
``CLIPImageProcessorPil`` (https://github.com/huggingface/transformers), which differs in the rounding of the crop.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from runtime.artifact.manifest import ImagePreprocessing
from runtime.preprocess import UnusableItemError, prepare_each
from runtime.preprocess.files import check_regular_file
from runtime.preprocess.silence import Quiet

ImageItem: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]"
Pixels: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_TOO_MANY = "more pixels than PIL.Image.MAX_IMAGE_PIXELS, a guard against decompression bombs; downscale it"
_TURNS = {  # EXIF 2.32, tag Orientation: what makes the stored image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow warns of damaged EXIF, of odd frames, of large images: either the pixels are there, or our error says why not.
_QUIET = Quiet("PIL")
# Without any handler, Python prints a library's log records of level warning on standard error.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class ImagePreprocessor:
    """Prepares images for a graph."""

    def __init__(self, preprocessing: ImagePreprocessing) -> None:
        """Keeps the artifact's record of it."""
        self._preprocessing = preprocessing

    def prepare(self, item: ImageItem) -> np.ndarray[Any, Any]:
        """Returns one row of the graph's input.

        Args:
            item: Anything that :func:`load_image` takes.

        Returns:
            ``[crop_size, crop_size, 3]`` uint8 where the arithmetic is in the graph, else the normalised
            ``[3, crop_size, crop_size]`` float32.

        Raises:
            UnusableItemError: The item cannot be embedded; the message is the reason.
        """
        pixels = resize_and_crop(load_image(item), self._preprocessing)
        return pixels if self._preprocessing.arithmetic == "graph" else pixel_values(pixels, self._preprocessing)

    def prepare_all(self, items: Sequence[ImageItem]) -> list[np.ndarray[Any, Any] | UnusableItemError]:
        """Returns :meth:`prepare` of each item, or what it raises."""
        return prepare_each(self.prepare, items)

    def collate(self, rows: Sequence[np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Returns the graph's input for rows of :meth:`prepare`: ``[rows, ...]``, by name."""
        return {self._preprocessing.graph_inputs()[0].name: np.stack(rows)}


def load_image(item: ImageItem) -> Image.Image:
    """Returns ``item`` as an upright RGB image.

    - The EXIF orientation is applied, so that what is embedded is what viewers show. An array has none.
    - Grey, palette and CMYK images are converted as ``Image.convert("RGB")`` does. Alpha is dropped, not blended:
      that is what ``torchvision.datasets`` did in training.
    - 16-bit grey keeps its high byte, torchvision's own rule for 16 to 8 bits. Pillow alone would clip it to white.

    Args:
        item: A path, the bytes of an image file, a PIL image, or a ``[height, width, 3]`` uint8 RGB array.

    Raises:
        UnusableItemError: It is none of these, is damaged, is empty, or has more pixels than
            ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    try:
        with _QUIET:
            image = _open(item)
            _check_size(image.width, image.height)
            turn = _TURNS.get(_orientation(image))
            rgb = _to_rgb(image)
        _check_size(rgb.width, rgb.height)  # again: the image inside an ICO can be larger than its header says
        return rgb if turn is None else rgb.transpose(turn)
    except UnusableItemError:
        raise
    except Exception as exc:  # Pillow's decoders raise SyntaxError, struct.error, EOFError, zlib.error and more
        raise UnusableItemError(_reason(exc)) from exc


def resize_and_crop(image: Image.Image, preprocessing: ImagePreprocessing) -> Pixels:
    """Returns the ``[crop_size, crop_size, 3]`` uint8 centre of the resized image.

    Args:
        image: An RGB image.
        preprocessing: The sizes and the filter.

    Raises:
        UnusableItemError: The image is so long and thin that, resized, it would exceed
            ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    crop = preprocessing.crop_size
    width, height = _resized_size(image, preprocessing)
    _check_size(width, height, "resized to ")
    if (width, height) != image.size:
        image = image.resize((width, height), _FILTERS[preprocessing.interpolation])
    left, top = (_crop_offset(size - crop, preprocessing.crop_rounding) for size in (width, height))
    return np.asarray(image.crop((left, top, left + crop, top + crop)))


def pixel_values(pixels: Pixels, preprocessing: ImagePreprocessing) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Returns normalised pixels, for a graph that leaves the arithmetic to its caller.

    Args:
        pixels: ``[..., height, width, 3]`` uint8.
        preprocessing: The mean and standard deviation.

    Returns:
        ``[..., 3, height, width]`` float32.
    """
    channels_first = np.moveaxis(pixels, -1, -3).astype(np.float32)
    mean, std = (
        np.array(values, dtype=np.float32)[:, None, None] for values in (preprocessing.mean, preprocessing.std)
    )
    return np.ascontiguousarray((channels_first / np.float32(255) - mean) / std)


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
        raise UnusableItemError("it is EPS, a program that Pillow would have Ghostscript run; convert it to PNG")
    return image


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise UnusableItemError(
            f"an array of {array.dtype} {list(array.shape)} is not an image; give uint8 [height, width, 3] in RGB order"
        )
    if not array.size:
        raise UnusableItemError(f"the array is empty: {list(array.shape)}")
    return Image.fromarray(array)


def _check_size(width: int, height: int, how: str = "") -> None:
    if not width or not height:
        raise UnusableItemError(f"the image is empty: {width} x {height} pixels")
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise UnusableItemError(f"{how}{width} x {height} it has {_TOO_MANY}")


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 if none. ``ImageOps.exif_transpose`` refuses photos for any other bad tag too."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001  a damaged EXIF block states no orientation, and says nothing of the pixels
        return 1
    return orientation if isinstance(orientation, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    sixteen_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if sixteen_bit:
        return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnusableItemError(f"an image of mode {image.mode} has no agreed range; convert it to 8 bits first")
    return image.convert("RGB")


def _resized_size(image: Image.Image, preprocessing: ImagePreprocessing) -> tuple[int, int]:
    width, height, side = image.width, image.height, preprocessing.resize_size
    if preprocessing.resize == "squash":
        return side, side
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def _crop_offset(surplus: int, rounding: str) -> int:
    return surplus // 2 if rounding == "floor" else round(surplus / 2)


def _reason(exc: Exception) -> str:
    if isinstance(exc, FileNotFoundError):
        return "there is no such file"
    if isinstance(exc, PermissionError):
        return "there is no permission to read it"
    if isinstance(exc, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"it has far {_TOO_MANY}"
    if isinstance(exc, IsADirectoryError):
        return "it is a folder; name the files in it"
    if isinstance(exc, UnidentifiedImageError):
        return "it is not an image in a format that Pillow reads"
    return f"it cannot be decoded ({exc or type(exc).__name__})"
