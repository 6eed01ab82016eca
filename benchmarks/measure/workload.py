"""Prepare the items of a benchmark: texts, photos and meshes, and the arrays for a graph."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.contenders.protocol import Target, usable
from benchmarks.measure.arrays_file import write_arrays
from benchmarks.results.schema import TIMED_ITEMS, TimedItems
from exporters.calibration.dataset import MIN_ITEMS, draw_items, load_calibration_dataset
from runtime.array_types import Array
from runtime.artifact.manifest import TowerName
from runtime.errors import EmbeddingBackbonesError, UsageError
from runtime.inference.tower import Row, build_preprocessor, group_key, row_cost

_JPEG_QUALITY = 90
_AROUND, _ACROSS = 48, 24  # points of a torus, around its axis and around its tube
_COUNTS: dict[TowerName, int] = {"text": 256, "image": 64, "mesh": 64}
_STRIDE = 5  # coprime to every power of two
_PARITY_ITEMS = 2 * MIN_ITEMS


@dataclass(frozen=True, kw_only=True)
class Items:
    """Items of one kind."""

    source: str  # description of their origin.
    items: tuple[str, ...]  # texts, or paths of files.
    names: tuple[str, ...]  # names for a report.
    sizes: tuple[int, ...]  # characters of each text, or bytes of each file.
    are_texts: bool  # whether the items are texts; otherwise they are paths.

    def sha256(self) -> str:
        """Return the hash of the texts, or of the content of the files."""
        digest = hashlib.sha256()
        for item, size in zip(self.items, self.sizes, strict=True):
            content = item.encode("utf-8", "surrogatepass") if self.are_texts else Path(item).read_bytes()
            digest.update(f"{size} ".encode() + content)
        return digest.hexdigest()

    def first(self, count: int) -> Items:
        """Return the first ``count`` items, or all if there are fewer."""
        return replace(self, items=self.items[:count], names=self.names[:count], sizes=self.sizes[:count])


def load_items(kind: TowerName, scratch: Path) -> Items:
    """Return built-in items for a tower of ``kind``. Photos and meshes are written to ``scratch``."""
    count = _COUNTS[kind]
    if kind == "mesh":
        return _files("tori of many shapes", [_write_torus(scratch, number) for number in range(count)])
    corpus = load_calibration_dataset(kind, None, count)
    held_out = corpus.held_out[:count]
    if kind == "image":
        return _files(corpus.source, [_write_photo(scratch, number, photo) for number, photo in enumerate(held_out)])
    return _texts(corpus.source, held_out)


def load_own_items(kind: TowerName, own: Path) -> Items:
    """Draw 256 texts, or 64 images or meshes, of the user's: ``own`` is a folder, or a file of texts or paths.

    :func:`~exporters.calibration.dataset.draw_items` draws them, and leaves out blank texts and repetitions.

    Raises:
        UsageError: The items are too few or cannot be used.
    """
    found = draw_items(kind, own, _COUNTS[kind])
    if not all(isinstance(item, str | Path) for item in found):
        raise UsageError(f"cannot use the items in {own} (its entries are not paths); name others with --items")
    if len(found) < MIN_ITEMS:
        raise UsageError(
            f"{own} has {len(found)} items without blank texts and repetitions; at least {MIN_ITEMS} are needed"
        )
    if kind != "text":
        return _files(own.name, [Path(item).absolute() for item in found])
    return _texts(own.name, found)


def _texts(source: str, items: Sequence[object]) -> Items:
    texts = tuple(map(str, items))
    return Items(source=source, items=texts, names=texts, sizes=tuple(map(len, texts)), are_texts=True)


def _files(source: str, paths: Sequence[Path]) -> Items:
    return Items(
        source=source,
        items=tuple(map(str, paths)),
        names=tuple(path.name for path in paths),
        sizes=tuple(path.stat().st_size for path in paths),
        are_texts=False,
    )


def _write_photo(folder: Path, number: int, photo: Image.Image) -> Path:
    path = folder / f"photo-{number:03}.jpg"
    photo.save(path, quality=_JPEG_QUALITY)
    return path


def _write_torus(folder: Path, number: int) -> Path:
    """Write an OFF file with a torus. Each number gives another shape of its tube."""
    angles = (np.linspace(0, 2 * np.pi, steps, endpoint=False) for steps in (_AROUND, _ACROSS))
    around, across = np.meshgrid(*angles)
    tube = 0.2 + 0.1 * (number % 5) + 0.1 * np.sin((2 + number % 7) * around + number)
    radius = 1 + tube * np.cos(across)
    points = np.stack([radius * np.cos(around), radius * np.sin(around), (1 + number % 3) * tube * np.sin(across)], -1)
    path = folder / f"torus-{number:03}.off"
    path.write_text(_to_off(points.reshape(-1, 3), _faces()))
    return path


def _faces() -> Array:
    """Return the corners of the triangles of a grid on a torus, ``[triangles, 3]``."""
    here = np.arange(_AROUND * _ACROSS).reshape(_ACROSS, _AROUND)
    right, up = np.roll(here, -1, axis=1), np.roll(here, -1, axis=0)
    triangles = (here, right, up), (right, np.roll(right, -1, axis=0), up)
    return np.concatenate([np.stack(corners, -1).reshape(-1, 3) for corners in triangles])


def _to_off(points: Array, faces: Array) -> str:
    lines = ["OFF", f"{len(points)} {len(faces)} 0"]
    lines += [" ".join(f"{value:.6f}" for value in point) for point in points]
    return "\n".join([*lines, *("3 " + " ".join(map(str, face)) for face in faces), ""])


def pick_typical(items: Sequence[str], sizes: Sequence[int], count: int) -> tuple[str, ...]:
    """Return ``count`` of ``items`` of all sizes, evenly spaced from the smallest to the largest, in mixed order.

    ``sizes`` has the size of each item. ``count`` is a power of two, and at most the number of items.
    """
    ordered = [item for _, item in sorted(zip(sizes, items, strict=True))]
    picked = [ordered[(2 * number + 1) * len(ordered) // (2 * count)] for number in range(count)]
    return tuple(picked[_STRIDE * number % count] for number in range(count))


class Workload:
    """Items for one tower, and the arrays that its graphs take. The first items are the ``parity_items``."""

    def __init__(self, target: Target, items: Items) -> None:
        """Prepare ``items`` for ``target``."""
        record = target.manifest.towers[target.tower]
        self._preprocessor = build_preprocessor(record.preprocessing, target.folder, 1)
        self.items = items
        self._timed = pick_typical(items.items, items.sizes, TIMED_ITEMS)
        self.parity_items = items.first(_PARITY_ITEMS)

    @property
    def timed_items(self) -> TimedItems:
        """The items of the calls at the stage ``end_to_end``."""
        size_of = dict(zip(self.items.items, self.items.sizes, strict=True))
        sizes = tuple(size_of[item] for item in self._timed)
        return TimedItems(source=self.items.source, are_texts=self.items.are_texts, sizes=sizes)

    @property
    def mean_tokens(self) -> float | None:
        """Mean number of tokens of the timed texts as the artifact cuts them; ``None`` for other items."""
        if not self.items.are_texts:
            return None
        return float(np.mean([row_cost(row) for row in self._prepare(self._timed)]))

    def write_feeds(self, path: Path, size: int, tokens: int | None) -> dict[str, Array]:
        """Write one batch of ``size`` items, and return it. Texts are joined and truncated to ``tokens``.

        Raises:
            UsageError: The texts have too few tokens.
        """
        items = self.items.items if tokens is None else self._long_texts(min(size, len(self.items.items)), tokens)
        arrays = self._preprocessor.collate(self._prepare(list(islice(cycle(items), size))))
        if tokens is not None:
            arrays = {name: array[:, :tokens] for name, array in arrays.items()}
            self._check_length(_fewest_tokens(arrays), tokens)
        write_arrays(path, [arrays])
        return arrays

    def _long_texts(self, count: int, tokens: int) -> list[str]:
        """Return ``count`` texts of at least ``tokens`` tokens, if each item has one: all items, from another start."""
        items = self.items.items
        times = math.ceil(tokens / len(items))
        return [" ".join([*items[at:], *items[:at]] * times) for at in range(count)]

    def _check_length(self, found: int, tokens: int) -> None:
        if found < tokens:
            raise UsageError(
                f"the texts of {self.items.source} fill only {found} of {tokens} tokens; "
                "name longer ones with --items, or give fewer --tokens"
            )

    def write_parity_feeds(self, path: Path, size: int) -> None:
        """Write the parity items in batches of ``size``. They are not sorted, so short texts get padding."""
        rows = self._prepare(self.parity_items.items)
        batches = []
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            if len({group_key(row) for row in batch}) > 1:
                raise EmbeddingBackbonesError("the items of one batch differ in shape; name others with --items")
            batches.append(self._preprocessor.collate(batch))
        write_arrays(path, batches)

    def calls(self, size: int) -> tuple[tuple[str, ...], ...]:
        """Return the items of each call of a turn, ``size`` per call. All timed items occur equally often."""
        endless = cycle(self._timed)
        return tuple(tuple(islice(endless, size)) for _ in range(TIMED_ITEMS // math.gcd(TIMED_ITEMS, size)))

    def _prepare(self, items: Sequence[str]) -> list[Row]:
        return usable(self._preprocessor.prepare_all(items))


def _fewest_tokens(arrays: dict[str, Array]) -> int:
    """Return the number of tokens of the shortest text of a batch, or its width if the graph takes no mask."""
    mask = arrays.get("attention_mask")
    return next(iter(arrays.values())).shape[1] if mask is None else int(np.count_nonzero(mask, axis=1).min())
