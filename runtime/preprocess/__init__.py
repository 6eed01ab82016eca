"""From items, as users have them, to the arrays that a graph takes; a module for each kind of item."""

from __future__ import annotations

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # tell a path from a text


class UnusableItemError(ValueError):
    """The item cannot be embedded; the message is the reason."""
