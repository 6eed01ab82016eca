"""Know the file formats of images: their suffixes, and the plugin that reads HEIC. Pillow is imported when needed."""

from __future__ import annotations

import os
from functools import cache

from runtime.preprocess.files import file_suffix
from runtime.preprocess.item import UnusableItemError

_USUAL_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_LONGEST_SUFFIX = 8
# Programs, documents, films, and formats of which Pillow only recognizes the header.
_NO_IMAGES = ("EPS", "PDF", "PALM", "MPEG", "BUFR", "GRIB", "HDF5", "IPTC", "WMF")
_HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@cache
def image_suffixes() -> tuple[str, ...]:
    """Return the suffixes of all images that Pillow opens, in lower case, and those of HEIC, which needs a plugin."""
    from PIL import Image

    Image.init()
    registered = [suffix for suffix, name in Image.registered_extensions().items() if name not in _NO_IMAGES]
    # The usual ones are the first in messages.
    return tuple(dict.fromkeys((*_USUAL_SUFFIXES, *_HEIF_SUFFIXES, *sorted(registered))))


def looks_like_image_path(text: str) -> bool:
    """Return whether ``text`` names an existing image file, or is one word with a suffix that only images have.

    The other suffixes of images also end words, such as ``.im`` and ``.ps``: there the file must exist.
    """
    if has_image_suffix(text):
        return True
    suffix = file_suffix(text)
    if not 2 <= len(suffix) <= _LONGEST_SUFFIX:
        return False
    return suffix in image_suffixes() and os.path.isfile(text)  # noqa: PTH113  Path.is_file raises for long names


def has_image_suffix(text: str) -> bool:
    """Return whether ``text`` is one word with a suffix that only images have. No file is looked for."""
    return file_suffix(text) in _USUAL_SUFFIXES and len(text.split()) == 1


def use_heif_plugin(data: bytes) -> None:
    """Let Pillow open a file that begins with ``data`` if it is HEIC, the format of iPhones.

    Raises:
        UnusableItemError: It is HEIC, and pillow-heif is not installed.
    """
    from PIL import Image

    brands = data[8 : int.from_bytes(data[:4])]  # the main one, a version, and those it is compatible with
    if data[4:8] != b"ftyp" or brands[:4] not in _HEIF_BRANDS or b"avif" in brands:
        return
    if "HEIF" not in Image.OPEN and not _register():
        way_out = "`pip install 'embedding-backbones[heic]'`"
        raise UnusableItemError(f"it is HEIC, which Pillow opens with pillow-heif: {way_out}")


def _register() -> bool:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True
