"""One item of a job, and what is known of where it came from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from hashlib import _Hash

_NAME_LENGTH = 80  # characters of a text that name it


@dataclass(frozen=True)
class Unreadable:
    """Stands where an item should be: no tower takes it, so that its failure is counted in its place.

    Attributes:
        reason: Why there is no item.
    """

    reason: str


SourceItem: TypeAlias = str | Path | bytes | Unreadable


class Source(NamedTuple):
    """One item.

    Attributes:
        name: Names its row in the output: the path of a file, or the beginning of a text.
        item: What is embedded: a text, the path of a file, or the bytes of an image file.
        place: The file and line that hold it; empty for a file that was named itself.
    """

    name: str
    item: SourceItem
    place: str = ""

    def describe(self) -> str:
        """Returns what names it in an error."""
        if self.place and self.name not in ("", self.place):
            return f"{self.name} ({self.place})"
        return self.name or self.place


def text_source(text: str, place: str = "") -> Source:
    """Returns the source of a text, named by its beginning on one line."""
    return Source(" ".join(text[: 4 * _NAME_LENGTH].split())[:_NAME_LENGTH], text, place)


def path_source(path: str, place: str = "") -> Source:
    """Returns the source of a file, named by its path as it was given."""
    return Source(path, Path(path) if path else Unreadable("the path is empty"), place)


def cell_source(value: str | Unreadable, kind: str, place: str) -> Source:
    """Returns the source of what a list holds at ``place``: of a text, or of a file for the other kinds of tower."""
    if isinstance(value, Unreadable):
        return Source(place, value, place)
    return text_source(value, place) if kind == "text" else path_source(value, place)


def digest_sources(digest: _Hash, sources: Iterable[Source]) -> None:
    """Adds names and items to ``digest``, so that their order and their bounds count; of a file its path alone."""
    for source in sources:
        for field in (source.name.encode("utf-8", "surrogatepass"), _item_bytes(source.item)):
            digest.update(len(field).to_bytes(8, "little"))
            digest.update(field)


def _item_bytes(item: SourceItem) -> bytes:
    if isinstance(item, bytes):
        return item
    text = item.reason if isinstance(item, Unreadable) else os.fspath(item)
    return text.encode("utf-8", "surrogatepass")  # a path that is no valid text holds lone surrogates
