"""Real items of each kind: those by which ranges are calibrated, and others by which the result is judged."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from exporters.samples.docstrings import load_texts
from exporters.samples.photos import load_photos
from exporters.samples.point_clouds import Cloud, load_shapes
from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError
from runtime.jobs.inputs import open_inputs
from runtime.jobs.items import Unreadable

MIN_ITEMS = 16  # of each half; fewer say little of ranges, and nothing of ten nearest neighbours
_GOLDEN_RATIO = 0.6180339887498949  # its multiples are spread evenly between 0 and 1


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Items of one kind, none of them in both halves.

    Attributes:
        source: Where they are from, for a person.
        calibration: Those that may be looked at while a variant is made.
        held_out: Those by which it is judged.
    """

    source: str
    calibration: Sequence[Any]
    held_out: Sequence[Any]


def load_corpus(kind: TowerName, path: Path | None, count: int) -> Corpus:
    """Returns items that a tower of ``kind`` embeds.

    Args:
        kind: What they are.
        path: The user's own: a folder of images or meshes, or a .txt, .jsonl or .parquet file. Without one, what every
            machine has: docstrings of Python's standard library, crops of this package's photos, turned shapes.
        count: Items of each half at most.

    Raises:
        UsageError: There are too few, or they are of another kind.
    """
    if count < MIN_ITEMS:
        raise UsageError(f"{count} items are too few to judge by; take {MIN_ITEMS} or more")
    items = _own(kind, path, count) if path else list(islice(_BUNDLED[kind](count), 2 * count))
    source = str(path) if path else _NAMES[kind]
    return Corpus(source=source, calibration=items[::2], held_out=items[1::2])


def _own(kind: TowerName, path: Path, count: int) -> list[Any]:
    sources = list(open_inputs([str(path)], towers=[kind]))
    bad = next((source for source in sources if isinstance(source.item, Unreadable)), None)
    if bad is not None and isinstance(bad.item, Unreadable):
        raise UsageError(f"{path} cannot be used for calibration: {bad.describe()}: {bad.item.reason}")
    if len(sources) < 2 * MIN_ITEMS:
        raise UsageError(
            f"{path} holds {len(sources)} items, where {2 * MIN_ITEMS} are needed: one half to calibrate with, the "
            "other to judge by"
        )
    step = max(1, len(sources) // (2 * count))  # from all over it, for folders and files are often sorted
    return [source.item for source in sources[::step][: 2 * count]]


def _texts(count: int) -> Iterator[str]:
    return iter(load_texts(8 * count)[::4])


def _crops(count: int) -> Iterator[Image.Image]:
    """Yields squares of different sizes and places of each photo in turn, every second one mirrored."""
    photos = load_photos()
    for index in range(2 * count):
        photo = photos[index % len(photos)]
        size, across, down = ((index * _GOLDEN_RATIO * factor) % 1 for factor in (1, 3, 7))
        side = int(min(photo.size) * (0.3 + 0.7 * size))
        left, top = int((photo.width - side) * across), int((photo.height - side) * down)
        crop = photo.crop((left, top, left + side, top + side))
        yield crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if index // len(photos) % 2 else crop


def _turned_shapes(count: int) -> Iterator[Cloud]:
    """Yields the shapes, each time turned and stretched otherwise."""
    shapes = load_shapes()
    for index in range(2 * count):
        angle, stretch = 2 * np.pi * ((index * _GOLDEN_RATIO) % 1), 0.5 + (3 * index * _GOLDEN_RATIO) % 1
        cosine, sine = np.cos(angle), np.sin(angle)
        turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, stretch]], dtype=np.float32)
        yield np.roll(shapes[index % len(shapes)] @ turn, index % 3, axis=1)


_BUNDLED = {"text": _texts, "image": _crops, "mesh": _turned_shapes}
_NAMES: dict[TowerName, str] = {
    "text": f"docstrings of Python {sys.version_info.major}.{sys.version_info.minor}'s standard library",
    "image": "crops of the photos of embedding-backbones",
    "mesh": "turned shapes of embedding-backbones",
}
