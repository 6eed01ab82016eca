"""One input item of a job, with its name and its place."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from hashlib import _Hash

_NAME_LENGTH = 80  # characters of a text in its name


@dataclass(frozen=True)
class Unreadable:
    """The reason why an item cannot be read, in its place. No tower accepts it, so it fails at its own position."""

    reason: str


ItemValue: TypeAlias = str | Path | bytes | Unreadable


class SourceItem(NamedTuple):
    """One input item.

    Attributes:
        name: Name of its row in the output: the path of a file, or the beginning of a text.
        item: The text, the path of a file, or the bytes of an image file.
        place: The file and line that list the item; empty if the user named the item directly.
    """

    name: str
    item: ItemValue
    place: str = ""

    def describe(self) -> str:
        """Return the name and the place for an error message."""
        if self.place and self.name not in ("", self.place):
            return f"{self.name} ({self.place})"
        return self.name or self.place


def text_item(text: str, place: str = "") -> SourceItem:
    """Return the item of a text. Its name is the beginning of the text on one line."""
    return SourceItem(" ".join(text[: 4 * _NAME_LENGTH].split())[:_NAME_LENGTH], text, place)


def path_item(path: str, place: str = "") -> SourceItem:
    """Return the item of a file. Its name is ``path`` as given."""
    return SourceItem(path, Path(path) if path else Unreadable("the path is empty"), place)


def listed_item(value: str | Unreadable, kind: str, place: str) -> SourceItem:
    """Return the item that a list holds at ``place``: a text if ``kind`` is ``text``, else the path of a file."""
    if isinstance(value, Unreadable):
        return SourceItem(place, value, place)
    return text_item(value, place) if kind == "text" else path_item(value, place)


def update_digest(digest: _Hash, sources: Iterable[SourceItem]) -> None:
    """Add the names and items of ``sources`` to ``digest``. Order and boundaries count; a file counts by its path."""
    for source in sources:
        item = source.item.reason if isinstance(source.item, Unreadable) else source.item
        for field in (source.name, item):
            # A path that is not valid UTF-8 has lone surrogates.
            data = field if isinstance(field, bytes) else os.fspath(field).encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
