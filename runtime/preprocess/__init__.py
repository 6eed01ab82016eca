"""From items, as users have them, to the arrays that a graph takes; a module for each kind of item."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Row = TypeVar("Row")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class UnusableItemError(ValueError):
    """The item cannot be embedded; the message is the reason."""


def prepare_each(prepare: Callable[[Item], Row], items: Iterable[Item]) -> list[Row | UnusableItemError]:
    """Returns what ``prepare`` makes of each item, or the :class:`UnusableItemError` that it raises."""
    rows: list[Row | UnusableItemError] = []
    for item in items:
        try:
            rows.append(prepare(item))
        except UnusableItemError as exc:
            rows.append(exc)
    return rows


def looks_like_image_path(text: str) -> bool:
    """Tells whether a string that could be a text ends as an image's path does, and is one word or a file's name."""
    if not text.lower().endswith(IMAGE_SUFFIXES):
        return False
    return len(text.split()) == 1 or os.path.isfile(text)  # noqa: PTH113  Path.is_file raises for names too long
