"""Know the file formats of images: their suffixes, and the plugin that reads HEIC."""

from __future__ import annotations

from functools import cache

from PIL import Image

from runtime.preprocess.files import USUAL_IMAGE_SUFFIXES
from runtime.preprocess.item import UnusableItemError

# Programs, documents, films, and formats of which Pillow only recognizes the header.
_NO_IMAGES = ("EPS", "PDF", "PALM", "MPEG", "BUFR", "GRIB", "HDF5", "IPTC", "WMF")
_HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@cache
def image_suffixes() -> tuple[str, ...]:
    """Return the suffixes of all images that Pillow opens, in lower case, and those of HEIC, which needs a plugin."""
    Image.init()
    registered = [suffix for suffix, name in Image.registered_extensions().items() if name not in _NO_IMAGES]
    # The usual ones are the first in messages.
    return tuple(dict.fromkeys((*USUAL_IMAGE_SUFFIXES, *_HEIF_SUFFIXES, *sorted(registered))))


def use_heif_plugin(data: bytes) -> None:
    """Let Pillow open a file that begins with ``data`` if it is HEIC, the format of iPhones.

    Raises:
        UnusableItemError: It is HEIC, and pillow-heif is not installed.
    """
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
