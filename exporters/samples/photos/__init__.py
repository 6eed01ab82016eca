"""Photos that ship with the exporters; README.md beside this file names their authors."""

from __future__ import annotations

import io
from importlib import resources

from PIL import Image


def photo_names() -> list[str]:
    """Return the file names of the photos, sorted."""
    return sorted(entry.name for entry in resources.files(__name__).iterdir() if entry.name.endswith(".jpg"))


def load_photos() -> list[Image.Image]:
    """Return the photos as RGB images, in the order of :func:`photo_names`."""
    names, folder = photo_names(), resources.files(__name__)
    return [Image.open(io.BytesIO((folder / name).read_bytes())).convert("RGB") for name in names]
