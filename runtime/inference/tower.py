"""One tower of an artifact, loaded: from items of its kind to vectors, a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, assert_never

import numpy as np

from runtime.artifact.manifest import (
    ImagePreprocessing,
    PointCloudPreprocessing,
    Preprocessing,
    TextPreprocessing,
    Tower,
    TowerName,
)
from runtime.errors import NonFiniteError
from runtime.inference.batching import BatchLimit, power_of_two
from runtime.preprocess import UnusableItemError
from runtime.session.session import CancellationToken, Session, SessionOptions

if TYPE_CHECKING:
    from runtime.preprocess.text import Tokens

Row: TypeAlias = "np.ndarray[Any, Any] | Tokens"
Vectors: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Portions:
    """How items of one kind are portioned out on one kind of device; a GPU needs more at a time to be busy.

    Attributes:
        window: Items that are in flight together, and among which those of like length find each other.
        chunk: Items that a thread prepares at a time.
        budget: Cost of a batch at most: tokens for texts, points for meshes, 1 for an image.
    """

    window: int
    chunk: int
    budget: int


PORTIONS: Mapping[tuple[TowerName, str], Portions] = MappingProxyType(
    {
        ("text", "cpu"): Portions(window=1024, chunk=64, budget=1024),
        ("text", "cuda"): Portions(window=4096, chunk=64, budget=65536),
        ("image", "cpu"): Portions(window=32, chunk=1, budget=8),
        ("image", "cuda"): Portions(window=128, chunk=1, budget=64),
        ("mesh", "cpu"): Portions(window=32, chunk=1, budget=16384),
        ("mesh", "cuda"): Portions(window=128, chunk=1, budget=131072),
    }
)


class Preprocessor(Protocol):
    """What makes of items what a graph takes."""

    def prepare_all(self, items: Sequence[Any]) -> Sequence[Row | UnusableItemError]:
        """Returns one row of the graph's input for each item, or why it has none."""

    def collate(self, rows: Sequence[Any]) -> dict[str, np.ndarray[Any, Any]]:
        """Returns the graph's inputs for rows that go together, by name; texts are padded."""


class LoadedTower:
    """Preprocessing and graph of one kind of item.

    Attributes:
        session: The graph.
        portions: How its items are portioned out.
    """

    def __init__(self, folder: Path, tower: Tower, options: SessionOptions) -> None:
        """Loads ``tower`` from the artifact in ``folder``; see :class:`runtime.session.session.Session` for the rest."""
        self.session = Session(folder, tower, options)
        self._preprocessor = build_preprocessor(tower.preprocessing, folder, self.session.provider.sequence_multiple)
        usual = PORTIONS[tower.preprocessing.kind, self.session.provider.device]
        self.portions = _resize(usual, tower.preprocessing, options.batch_size)

    def prepare(self, items: Sequence[Any], *, truncate: bool = True) -> list[Row | UnusableItemError]:
        """Returns one row of the graph's input for each item, or why it has none.

        An item has none if it cannot be embedded, or would have to be cut and ``truncate`` is false.
        """
        rows: Sequence[Row | UnusableItemError] = self._preprocessor.prepare_all(items)
        return list(rows) if truncate else [_refuse_truncated(row) for row in rows]

    def collate(self, rows: Sequence[Any]) -> dict[str, np.ndarray[Any, Any]]:
        """Returns the graph's inputs for rows of :meth:`prepare` that go together, by name; texts are padded."""
        return self._preprocessor.collate(rows)

    def limit(self, batch_size: int | None) -> BatchLimit:
        """Returns what goes through the graph at once: ``batch_size`` items, by default what the budget allows."""
        if batch_size is not None:
            return BatchLimit(items=batch_size)
        return BatchLimit(budget=self.portions.budget, multiple=self.session.provider.sequence_multiple)

    def embed(self, rows: Sequence[Any], stop: CancellationToken | None = None) -> Vectors:
        """Runs the graph on rows of :meth:`prepare`, which go together: see :func:`group_key`.

        Returns:
            ``[rows, output_dim]`` float32.

        Raises:
            InferenceError: The graph cannot be run.
            NonFiniteError: It returned NaN or infinity.
        """
        provider = self.session.provider
        filled = [*rows, *[rows[-1]] * (power_of_two(len(rows)) - len(rows))] if provider.pads_batches else rows
        vectors = self.session.run(self.collate(filled), stop)[: len(rows)]
        if not np.isfinite(vectors).all():
            raise NonFiniteError(
                f"{self.session.choice.graph} returned NaN or infinity on the provider {provider.name}; "
                "check the artifact with `python -m runtime verify`, or take another provider"
            )
        return vectors


def _resize(usual: Portions, preprocessing: Preprocessing, batch_size: int | None) -> Portions:
    """Returns portions for batches of so many images, or meshes of the usual number of points.

    Texts keep to their budget of tokens: lengths differ too much for a number of texts to say what a batch takes.
    """
    # A fixed 32 took 1.8 times the CPU time of the budget, for 120 docstrings of 3 to 256 tokens by all-MiniLM-L6-v2.
    if batch_size is None or isinstance(preprocessing, TextPreprocessing):
        return usual
    cost = preprocessing.num_points if isinstance(preprocessing, PointCloudPreprocessing) else 1
    return replace(usual, window=max(usual.window, 2 * batch_size), budget=cost * batch_size)


def _refuse_truncated(row: Row | UnusableItemError) -> Row | UnusableItemError:
    if is_truncated(row):
        return UnusableItemError("it has more tokens than the model takes; shorten it, or let it be cut")
    return row


def is_truncated(row: Row | UnusableItemError) -> bool:
    """Tells whether ``row`` is a text without its end."""
    return bool(getattr(row, "truncated", False))


def group_key(row: Row) -> tuple[int, ...]:
    """Returns what rows of one batch have in common: the shape of an array; texts are padded to one."""
    return row.shape if isinstance(row, np.ndarray) else ()


def row_cost(row: Row) -> int:
    """Returns what ``row`` costs of a batch's budget: its tokens or points; an image costs 1."""
    if not isinstance(row, np.ndarray):
        return len(row.ids)
    return len(row) if row.ndim == 2 else 1


def build_preprocessor(preprocessing: Preprocessing, folder: Path, sequence_multiple: int) -> Preprocessor:
    """Returns what prepares items of one kind, having imported what it needs, and nothing of the other kinds.

    Args:
        preprocessing: What is to be done.
        folder: The artifact, for its tokenizer.
        sequence_multiple: To which texts are padded.
    """
    if isinstance(preprocessing, ImagePreprocessing):
        from runtime.preprocess.image import ImagePreprocessor

        return ImagePreprocessor(preprocessing)
    if isinstance(preprocessing, TextPreprocessing):
        from runtime.preprocess.text import TextPreprocessor

        return TextPreprocessor(preprocessing, folder, sequence_multiple)
    if isinstance(preprocessing, PointCloudPreprocessing):
        from runtime.preprocess.point_cloud import PointCloudPreprocessor

        return PointCloudPreprocessor(preprocessing)
    assert_never(preprocessing)
