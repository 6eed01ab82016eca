"""Choose real items of a kind: one half to calibrate a variant, the other half to measure its accuracy."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from exporters.samples.docstrings import load_texts
from exporters.samples.photos import load_photos
from exporters.samples.point_clouds import load_shapes
from runtime.array_types import Float32Array
from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError
from runtime.jobs.inputs import open_inputs
from runtime.jobs.items import ItemValue, SourceItem, Unreadable

MIN_ITEMS = 16  # per half; fewer give poor ranges, and no ten nearest neighbours
_GOLDEN_RATIO = 0.6180339887498949  # the fractional parts of its multiples are uniformly distributed


@dataclass(frozen=True, kw_only=True)
class CalibrationDataset:
    """Items of one kind. No item is in both halves.

    Attributes:
        source: Where the items are from, as text for the user.
        calibration: Items from which variants are made.
        held_out: Items on which the accuracy of variants is measured.
    """

    source: str
    calibration: Sequence[Any]
    held_out: Sequence[Any]


def load_calibration_dataset(
    kind: TowerName, path: Path | None, count: int, *, exact: bool = False
) -> CalibrationDataset:
    """Return items for a tower of ``kind``. Blank texts and repetitions are left out.

    Args:
        kind: Kind of the items.
        path: The user's own items: a folder of images or meshes, or a .txt, .jsonl, .parquet, .csv or .tsv file.
            ``None`` means docstrings of Python's standard library, crops of this package's photos, or rotated point
            clouds.
        count: Largest number of items per half.
        exact: Whether fewer items than ``count`` per half are an error.

    Raises:
        UsageError: There are too few items, or they are of another kind.
    """
    if count < MIN_ITEMS:
        raise UsageError(f"{count} items are too few to measure accuracy; use {MIN_ITEMS} or more")
    source, bundled = _BUNDLED[kind]
    items = _load_own(kind, path, count, count if exact else MIN_ITEMS) if path else list(bundled(count))
    return CalibrationDataset(source=str(path or source), calibration=items[::2], held_out=items[1::2])


def draw_items(kind: TowerName, path: Path, count: int) -> list[Any]:
    """Draw up to ``count`` of the user's items at random, always the same: files are often sorted, or alternate.

    Blank texts and repetitions are left out. ``path`` is that of :func:`load_calibration_dataset`.

    Returns:
        Texts, paths, or the bytes of files.

    Raises:
        UsageError: The items cannot be read, or are of another kind.
    """
    sources = _open_own(kind, path)
    order = np.random.default_rng(0).permutation(len(sources))
    return list(islice(_distinct(sources[index] for index in order), count))


def _load_own(kind: TowerName, path: Path, count: int, least: int) -> list[Any]:
    drawn = draw_items(kind, path, 2 * count)
    if len(drawn) < 2 * least:
        fewer = f", or --items {len(drawn) // 2}" if len(drawn) >= 2 * MIN_ITEMS else ""
        raise UsageError(
            f"{path} holds {len(drawn)} items without blank texts and repetitions, where {2 * least} are needed: one "
            f"half for calibration, the other half for the accuracy measurement; give more items{fewer}"
        )
    return drawn


def _open_own(kind: TowerName, path: Path) -> list[SourceItem]:
    try:
        sources = list(open_inputs([str(path)], towers=[kind]))
    except UsageError as exc:
        raise _refusal(kind, str(exc)) from exc
    for source in sources:
        if isinstance(source.item, Unreadable):
            raise _refusal(kind, f"{path} cannot be used: {source.describe()}: {source.item.reason}")
        if str(source.item) == str(path) and not path.exists():
            raise _refusal(kind, f"there is no {path}")
    return sources


def _refusal(kind: TowerName, message: str) -> UsageError:
    """Return the error with advice of its own: that of the runtime is for the command ``embed``."""
    return UsageError(f"{message.partition('; ')[0]}; give {_FORMS[kind]}")


def _distinct(sources: Iterable[SourceItem]) -> Iterator[ItemValue]:
    """Yield the items that are not blank, each content once."""
    seen = {b""}
    for source in sources:
        content = _content(source)
        if content not in seen:
            seen.add(content)
            yield source.item


def _content(source: SourceItem) -> bytes:
    """Return a text without the white space around it, or the hash of a file."""
    if isinstance(source.item, str):
        return source.item.strip().encode("utf-8", "surrogatepass")
    if isinstance(source.item, bytes):
        return hashlib.sha256(source.item).digest()
    try:
        with Path(str(source.item)).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as exc:
        raise UsageError(f"{source.describe()} cannot be used: {exc.strerror}; remove it") from exc


def _crops(count: int) -> Iterator[Image.Image]:
    """Yield square crops of each photo in turn, of different sizes and positions; mirror them in every second round."""
    photos = load_photos()
    for index in range(2 * count):
        photo = photos[index % len(photos)]
        size, across, down = ((index * _GOLDEN_RATIO * factor) % 1 for factor in (1, 3, 7))
        side = int(min(photo.size) * (0.3 + 0.7 * size))
        left, top = int((photo.width - side) * across), int((photo.height - side) * down)
        crop = photo.crop((left, top, left + side, top + side))
        yield crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if index // len(photos) % 2 else crop


def _rotated_shapes(count: int) -> Iterator[Float32Array]:
    """Yield the point clouds in turn, each time with another rotation and another scale of one axis."""
    shapes = load_shapes()
    for index in range(2 * count):
        angle, stretch = 2 * np.pi * ((index * _GOLDEN_RATIO) % 1), 0.5 + (3 * index * _GOLDEN_RATIO) % 1
        cosine, sine = np.cos(angle), np.sin(angle)
        rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, stretch]], dtype=np.float32)
        yield np.roll(shapes[index % len(shapes)] @ rotation, index % 3, axis=1)


_FORMS: dict[TowerName, str] = {
    "text": "a UTF-8 .txt file with one text a line, or a .jsonl, .parquet, .csv or .tsv file with the column `text`",
    "image": "a folder of images",
    "mesh": "a folder of meshes",
}
_PYTHON = f"Python {sys.version_info.major}.{sys.version_info.minor}"
_BUNDLED: dict[TowerName, tuple[str, Callable[[int], Iterable[Any]]]] = {
    "text": (f"docstrings of {_PYTHON}'s standard library", lambda count: load_texts(2 * count, step=4)),
    "image": ("crops of the photos of embedding-backbones", _crops),
    "mesh": ("turned shapes of embedding-backbones", _rotated_shapes),
}
