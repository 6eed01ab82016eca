"""Decode, orient, convert to RGB, resize and crop images, bit for bit as the transforms of their training.

Source: ``torchvision.transforms._presets.ImageClassification`` and the Pillow branch of
``torchvision.transforms.functional`` (https://github.com/pytorch/vision), which open_clip also uses;
``CLIPImageProcessorPil`` (https://github.com/huggingface/transformers), which differs in the rounding of the crop.
"""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias, get_args

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, _imaging

from runtime.array_types import Array, Float32Array, UInt8Array
from runtime.artifact.manifest import Alpha, ImagePreprocessing, Interpolation
from runtime.preprocess.files import check_regular_file, describe_file_error
from runtime.preprocess.float_resize import resize_floats
from runtime.preprocess.image_formats import use_heif_plugin
from runtime.preprocess.item import UnusableItemError, prepare_each
from runtime.preprocess.silence import SuppressWarnings, silence_libtiff

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
_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 259, 262, 284, 339  # tags of TIFF
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_UNCOMPRESSED, _WHITE_IS_ZERO, _SEPARATE, _SIGNED = 1, 0, 2, 2  # values of them
_DARKEST = 16  # of 255: values of 12 bits in 16, which torchvision would make black
_HEAD = 4096  # bytes of a file, of which HEIC needs its first box
_FAILED = "_runtime_failed"  # attribute of an image that Pillow refused to decode
_LOCK = "_runtime_lock"  # attribute of an image
# Pillow warns of damaged EXIF, unusual frames and large images. An unusable image gets an error of ours instead.
WITHOUT_WARNINGS = SuppressWarnings("PIL")
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
        pixels = resize_and_crop(load_image(item, self._preprocessing.alpha), self._preprocessing)
        return pixels if self._preprocessing.arithmetic == "graph" else pixel_values(pixels, self._preprocessing)

    def prepare_all(self, items: Sequence[ImageItem]) -> list[Array | UnusableItemError]:
        """Return the row of each item, or its error; see :meth:`prepare`."""
        return prepare_each(self.prepare, items)

    def collate(self, rows: Sequence[Array]) -> dict[str, Array]:
        """Return the graph's input by name, ``[rows, ...]``, for rows of :meth:`prepare`."""
        return {self._preprocessing.graph_inputs()[0].name: np.stack(rows)}


def load_image(item: ImageItem, alpha: Alpha = "drop") -> Image.Image:
    """Load an upright RGB image: a caller's own, if it is one already.

    - An image that Pillow's ``load`` refuses is refused.
    - The EXIF orientation is applied once, as image viewers do.
    - ``Image.convert("RGB")`` converts grey, palette and CMYK images.
    - Grey of more bits keeps the highest 8 of its declared bits. Floats from 0 to 1 are scaled. Both equals
      torchvision's ``to_dtype``, where Pillow would clip. Integers that would become nearly black are refused.

    Args:
        item: A path, the bytes of an image file, a PIL image, or a ``[height, width, 3]`` uint8 RGB array.
        alpha: ``drop`` drops alpha without blending, as ``torchvision.datasets`` does in training. ``white`` puts a
            transparent image on white, as ``convert_to_rgb`` of transformers does.

    Raises:
        UnusableItemError: The item is of another type, damaged or empty, or has more pixels than
            ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    try:
        with WITHOUT_WARNINGS, _opened(item) as image:
            with _lock_of(image):
                if image is item:
                    _check_callers_own(image)
                _check_size(image.width, image.height)
                _check_tiff(image)
                _decode(image)
                _check_size(image.width, image.height)  # again: the header of an ICO file can state less than it holds
                turn = _EXIF_TRANSPOSES.get(_orientation(image))
            rgb = _to_rgb(image, alpha)
            if rgb is image and isinstance(item, str | os.PathLike):
                # Without its file, which is about to be closed, and from which the reader of FPX would read again.
                rgb = image._new(image.im)  # noqa: SLF001  the public ways copy the pixels
        del image  # its pixels are not needed while they are turned
        return rgb if turn is None else rgb.transpose(turn)
    except UnusableItemError:
        raise
    except Exception as exc:  # Pillow's decoders raise SyntaxError, struct.error, EOFError, zlib.error and more
        raise UnusableItemError(_reason(exc)) from exc


def load_pixels(item: ImageItem, alpha: Alpha) -> UInt8Array | UnusableItemError:
    """Return the pixels of :func:`load_image`, ``[height, width, 3]`` uint8 in RGB order, or its error."""
    try:
        return np.asarray(load_image(item, alpha))
    except UnusableItemError as exc:
        return exc


def resize_and_crop(image: Image.Image, preprocessing: ImagePreprocessing) -> UInt8Array | Float32Array:
    """Resize an RGB image, and return its ``[crop_size, crop_size, 3]`` centre, with values from 0 to 255.

    The result has the type ``resize_dtype``. Where the crop is larger than the image, it has the colour ``fill``.

    Raises:
        UnusableItemError: The image is so long and thin that the resized image would exceed
            ``PIL.Image.MAX_IMAGE_PIXELS``, or have no pixels.
    """
    width, height = resized_size(image.width, image.height, preprocessing)
    if not width or not height:
        found = f"{image.width} x {image.height} pixels are so thin that they would be resized to {width} x {height}"
        raise UnusableItemError(f"{found}; crop or pad the image")
    _check_size(width, height, "resized to ")
    (left, columns), (top, rows) = (_crop_range(size, preprocessing) for size in (width, height))
    if preprocessing.resize_dtype == "float32":
        kind, antialias = preprocessing.interpolation, preprocessing.antialias
        source = np.asarray(image)
        pixels: UInt8Array | Float32Array = resize_floats(
            source, height, width, kind, antialias=antialias, rows=rows, columns=columns
        )
    else:
        if (width, height) != image.size:
            image = image.resize((width, height), _FILTERS[preprocessing.interpolation])
        pixels = np.asarray(image)[rows, columns]
    canvas: Array = np.empty((preprocessing.crop_size, preprocessing.crop_size, 3), pixels.dtype)
    canvas[:] = preprocessing.fill
    canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return canvas


def pixel_values(pixels: UInt8Array | Float32Array, preprocessing: ImagePreprocessing) -> Float32Array:
    """Normalise ``[..., height, width, 3]`` pixels from 0 to 255 to ``[..., 3, height, width]`` float32."""
    channels_first = np.moveaxis(pixels, -1, -3).astype(np.float32)
    mean, std = (np.array(each, dtype=np.float32)[:, None, None] for each in (preprocessing.mean, preprocessing.std))
    return np.ascontiguousarray((channels_first / np.float32(255) - mean) / std)


def _crop_range(size: int, preprocessing: ImagePreprocessing) -> tuple[int, slice]:
    """Return the size of the first border, and the rows or columns of the resized image that are in the crop."""
    crop = preprocessing.crop_size
    if preprocessing.crop_rounding == "floor":
        offset = (size - crop) // 2
    else:
        offset = round((size - crop) / 2) if size >= crop else -((crop - size) // 2)
    return max(-offset, 0), slice(max(offset, 0), min(offset + crop, size))


@contextmanager
def _opened(item: ImageItem) -> Iterator[Image.Image]:
    if isinstance(item, Image.Image):
        yield item
    elif isinstance(item, np.ndarray):
        yield _from_array(item)
    elif isinstance(item, bytes):
        yield open_image(io.BytesIO(item))
    elif isinstance(item, str | os.PathLike):
        check_regular_file(item)
        with Path(item).open("rb") as file:  # Pillow reads the parts that it needs
            yield open_image(file)
    else:
        raise UnusableItemError(f"a {type(item).__name__} is not an image; give a path, bytes, a PIL image or an array")


def open_image(file: BinaryIO) -> Image.Image:
    """Read the header of an image. Its pixels are read from the open file later.

    Raises:
        UnusableItemError: The file is empty, or in a format that Pillow would read by another program.
    """
    head = file.read(_HEAD)
    if not head:
        raise UnusableItemError("the file is empty")
    use_heif_plugin(head)
    image = Image.open(file)
    if image.format == "EPS":
        raise UnusableItemError("it is EPS, a program that Pillow would run in Ghostscript; convert it to PNG")
    return image


def _from_array(array: Array) -> Image.Image:
    if isinstance(array, np.ma.MaskedArray):
        raise UnusableItemError("a masked array is not an image; fill it with `.filled(value)`")
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
    if not is_allowed(width, height):
        raise UnusableItemError(f"{prefix}{width} x {height} pixels are more than {_LIMIT}")


def tile_size(image: Image.Image) -> tuple[int, int]:
    """Return the width and height of the tiles of a TIFF, which are decoded as a whole; 0 and 0 of other images."""
    return max(0, _tag(image, _TILE_WIDTH, 0)), max(0, _tag(image, _TILE_LENGTH, 0))  # a tag may be negative


def _check_tiff(image: Image.Image) -> None:
    """Refuse a TIFF that Pillow would misread, or whose tiles are too large."""
    width, height = tile_size(image)
    if not is_allowed(width, height):
        raise UnusableItemError(f"its tiles of {width} x {height} pixels are more than {_LIMIT}")
    bits = _tag(image, _BITS_PER_SAMPLE, 8)
    planes = _tag(image, _PLANES, 1) == _SEPARATE and _tag(image, _COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED
    if bits > 8 and planes and len(image.getbands()) > 1:
        raise UnusableItemError(
            f"it has {bits} bits in planes of one colour, uncompressed, which Pillow misreads; convert it to 8 bits"
        )
    if bits == 8 and _tag(image, _SAMPLE_FORMAT, 1) == _SIGNED:
        raise UnusableItemError("it has signed values of 8 bits, which Pillow misreads; convert them to 0 to 255 first")


def is_allowed(width: int, height: int) -> bool:
    """Return whether so many pixels are within ``PIL.Image.MAX_IMAGE_PIXELS``."""
    return Image.MAX_IMAGE_PIXELS is None or width * height <= Image.MAX_IMAGE_PIXELS


def _lock_of(image: Image.Image) -> threading.Lock:
    """Return the lock of an image: a caller's may be in several items, and two threads would decode it into one."""
    lock: threading.Lock = image.__dict__.setdefault(_LOCK, threading.Lock())
    return lock


def _check_callers_own(image: Image.Image) -> None:
    if getattr(image, _FAILED, False):  # a second ``load`` would succeed
        raise UnusableItemError("it cannot be decoded (it failed before)")
    if getattr(image, "tile", ()) and getattr(image, "fp", None) is None:
        raise UnusableItemError("its file was closed before it was decoded; give its path, or call `load()` before")


def _decode(image: Image.Image) -> None:
    """Decode ``image``, before its EXIF is read.

    Reading the EXIF of a PNG decodes it, too, and after a failure Pillow goes on with what it has. Its TIFF reader
    turns the image when it decodes it, and then removes the tag.
    """
    if image.format == "TIFF":
        silence_libtiff(_imaging.__file__)
    try:
        image.load()
    except Exception:
        setattr(image, _FAILED, True)
        raise


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 by default. ``ImageOps.exif_transpose`` also refuses photos for other bad tags."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001  a damaged EXIF block has no orientation; the pixels may be intact
        return 1
    return orientation if isinstance(orientation, int) else 1


def is_transparent(image: Image.Image) -> bool:
    """Return whether an image may have transparent pixels: in a band, or by their colour."""
    return "A" in image.getbands() or image.info.get("transparency") is not None


def _to_rgb(image: Image.Image, alpha: Alpha) -> Image.Image:
    if image.mode == "F":
        grey = _floats_to_bytes(np.asarray(image))
    elif image.mode == "I" or image.mode.startswith("I;16"):
        grey = _integers_to_bytes(image)
    elif alpha == "white" and is_transparent(image):
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba)  # equals Image.alpha_composite, and takes less memory
        return white
    else:
        return image if image.mode == "RGB" else image.convert("RGB")
    values = grey.astype(np.uint8)
    if _tag(image, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO:  # Pillow itself inverts only 8 bits and fewer
        values = 255 - values
    if alpha == "white" and is_transparent(image):
        values[np.asarray(image) == image.info["transparency"]] = 255
    return Image.fromarray(values).convert("RGB")


def _integers_to_bytes(image: Image.Image) -> Array:
    """Return the highest 8 of the declared bits."""
    bits, values = _declared_bits(image), np.asarray(image)
    if bits == 32:
        values = values.view(np.uint32)  # Pillow reads them as signed
    if values.min() < 0:
        raise UnusableItemError("it has negative values, which have no agreed range; convert it to 8 bits first")
    high = values >> (bits - 8)
    if values.any() and high.max() < _DARKEST:
        found = f"the values of its {bits} bits end at {values.max()}"
        raise UnusableItemError(f"{found}, and would become nearly black; convert it to 8 bits first")
    return high


def _declared_bits(image: Image.Image) -> int:
    """Return the number of bits of a value, without its sign."""
    if hasattr(image, "tag_v2"):  # of TIFF
        return _tag(image, _BITS_PER_SAMPLE, 16) - int(_tag(image, _SAMPLE_FORMAT, 1) == _SIGNED)
    return 31 if image.mode == "I" and image.format != "PPM" else 16


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """Return the first value of a tag of TIFF."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _floats_to_bytes(values: Array) -> Array:
    if not (values.min() >= 0 and values.max() <= 1):  # false for NaN, too
        found = f"it has floats from {values.min():g} to {values.max():g}"
        raise UnusableItemError(f"{found}, where images have 0 to 1; scale them, or convert it to 8 bits first")
    scaled: Array = values * np.float32(255 + 1 - 1e-3)
    return scaled


def resized_size(width: int, height: int, preprocessing: ImagePreprocessing) -> tuple[int, int]:
    """Return width and height after resizing, before the crop."""
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
        return "it is not an image of a kind that Pillow reads; convert it to PNG or JPEG"
    return f"it cannot be decoded ({str(exc) or type(exc).__name__})"
