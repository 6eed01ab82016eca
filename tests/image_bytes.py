from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
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


def tiff(tags: Mapping[int, int | tuple[int, ...]], data: bytes) -> bytes:
    """Return a TIFF with ``data`` at byte 8."""
    body, entries = bytearray(data + bytes(len(data) % 2)), b""
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, tuple) else (value,)
        stored = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:  # an entry has room for one
            stored, body = struct.pack("<I", 8 + len(body)), body + stored
        entries += struct.pack("<HHI", tag, 4, len(values)) + stored
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


def tiled_tiff(side: int, tile: bytes = b"") -> bytes:
    """Return a TIFF of one grey pixel, in a compressed tile of ``side`` x ``side`` pixels; black ones by default."""
    tile = tile or zlib.compress(bytes(side * side))
    tags = {256: 1, 257: 1, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    return tiff(tags | {324: 8, 325: len(tile)}, tile)
