from __future__ import annotations

import io
from typing import Any

from PIL import Image


def encode(image: Image.Image, name: str, **options: Any) -> bytes:
    """Return the bytes of a file with ``image``, in the format that Pillow calls ``name``."""
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()
