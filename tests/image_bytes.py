from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image

from runtime.artifact.manifest import ImagePreprocessing

RECIPE = ImagePreprocessing(
    resize_size=8, crop_size=8, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), arithmetic="graph"
)


def encode(image: Image.Image, name: str, **options: Any) -> bytes:
    """Return the bytes of a file with ``image``, in the format that Pillow calls ``name``."""
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def tiled_tiff(side: int, tile: bytes = b"") -> bytes:
    """Return a TIFF of one grey pixel, in a compressed tile of ``side`` x ``side`` pixels; black ones by default."""
    tile = tile or zlib.compress(bytes(side * side))
    tags = [(256, 1), (257, 1), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side)]
    tags += [(324, 8), (325, len(tile))]
    tile += b"\0" * (len(tile) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    header = b"II*\0" + struct.pack("<I", 8 + len(tile))
    return header + tile + struct.pack("<H", len(tags)) + entries + b"\0" * 4
