"""One tower of an artifact, loaded: from items of its kind to vectors, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never

import numpy as np

from runtime.errors import NonFiniteError
from runtime.manifest import ImagePreprocessing, PointCloudPreprocessing, Preprocessing, TextPreprocessing, Tower
from runtime.preprocess import UnusableItemError
from runtime.session import Session

if TYPE_CHECKING:
    from runtime.preprocess.image import ImagePreprocessor
    from runtime.preprocess.pointcloud import PointCloudPreprocessor
    from runtime.preprocess.text import TextPreprocessor, Tokens

Row: TypeAlias = "np.ndarray[Any, Any] | Tokens"
Vectors: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]


class LoadedTower:
    """Preprocessing and graph of one kind of item.

    Attributes:
        session: The graph.
    """

    def __init__(self, folder: Path, tower: Tower, *, provider: str, threads: int | None) -> None:
        """Loads ``tower`` from the artifact in ``folder``; see :class:`runtime.session.Session` for the rest."""
        self._preprocessor = _build_preprocessor(tower.preprocessing, folder)
        self._graph = tower.graph
        self.session = Session(folder / tower.graph, tower, provider=provider, threads=threads)

    def prepare(self, item: Any, *, truncate: bool = True) -> Row:
        """Returns one row of the graph's input.

        Raises:
            UnusableItemError: The item cannot be embedded, or would have to be cut and ``truncate`` is false.
        """
        row = self._preprocessor.prepare(item)
        if not truncate and is_truncated(row):
            raise UnusableItemError("it has more tokens than the model takes; shorten it, or let it be cut")
        return row

    def embed(self, rows: Sequence[Any]) -> Vectors:
        """Runs the graph on rows of :meth:`prepare`, which go together: see :func:`group_key`.

        Returns:
            ``[rows, output_dim]`` float32.

        Raises:
            InferenceError: The graph cannot be run.
            NonFiniteError: It returned NaN or infinity.
        """
        vectors = self.session.run(self._preprocessor.collate(rows))
        if not np.isfinite(vectors).all():
            raise NonFiniteError(
                f"{self._graph} returned NaN or infinity on the provider {self.session.provider}; "
                "check the artifact with `python -m runtime verify`, or take another provider"
            )
        return vectors


def is_truncated(row: Row) -> bool:
    """Tells whether ``row`` is a text without its end."""
    return bool(getattr(row, "truncated", False))


def group_key(row: Row) -> tuple[int, ...]:
    """Returns what rows of one batch have in common: the shape of an array; texts are padded to one."""
    return row.shape if isinstance(row, np.ndarray) else ()


def _build_preprocessor(
    preprocessing: Preprocessing, folder: Path
) -> ImagePreprocessor | TextPreprocessor | PointCloudPreprocessor:
    """Imports what this kind of item needs, and nothing of the other kinds."""
    if isinstance(preprocessing, ImagePreprocessing):
        from runtime.preprocess.image import ImagePreprocessor

        return ImagePreprocessor(preprocessing)
    if isinstance(preprocessing, TextPreprocessing):
        from runtime.preprocess.text import TextPreprocessor

        return TextPreprocessor(preprocessing, folder)
    if isinstance(preprocessing, PointCloudPreprocessing):
        from runtime.preprocess.pointcloud import PointCloudPreprocessor

        return PointCloudPreprocessor(preprocessing)
    assert_never(preprocessing)
