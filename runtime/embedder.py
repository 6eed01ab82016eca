"""load() and the Embedder: items in, vectors out, in the order in which they were given."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, assert_never, overload

import numpy as np

from runtime.artifact import check_files, read_manifest
from runtime.errors import ItemError, NonFiniteError, UsageError
from runtime.manifest import ImagePreprocessing, Manifest, Preprocessing, TextPreprocessing
from runtime.preprocess import UnusableItemError
from runtime.session import Session

if TYPE_CHECKING:
    from runtime.preprocess.image import ImageItem, ImagePreprocessor
    from runtime.preprocess.text import TextPreprocessor, Tokens

_NAME_LENGTH = 200
_LOG = logging.getLogger("runtime")
Item: TypeAlias = "ImageItem"  # a string is a path to an image tower and a text to a text tower
Row: TypeAlias = "np.ndarray[Any, Any] | Tokens"
Vectors: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]


class PartialEmbeddings(NamedTuple):
    """What ``on_error="skip"`` returns.

    Attributes:
        vectors: ``[len(kept), output_dim]`` float32.
        kept: ``[len(kept)]`` int64: the index of each row's item in the input.
        failures: One error for each item that was left out.
        truncated: ``[texts]`` int64: the index of each text that was embedded without its end.
    """

    vectors: Vectors
    kept: np.ndarray[Any, np.dtype[np.int64]]
    failures: list[ItemError]
    truncated: np.ndarray[Any, np.dtype[np.int64]]


def load(
    path: str | os.PathLike[str], *, provider: str = "auto", threads: int | None = None, check_hashes: bool = True
) -> Embedder:
    """Loads an artifact.

    Args:
        path: The artifact's folder.
        provider: ``cpu``, ``cuda``, ``openvino``, or ``auto``: the first of cuda, openvino, cpu that works here.
            A provider that is named is used or refused, never replaced.
        threads: Threads of one call; by default as many as affinity mask and container quota allow.
        check_hashes: Whether to compare every file with its recorded hash first.

    Raises:
        ArtifactError: The folder is not an artifact, is damaged, or is of another schema.
        ProviderError: The provider is not usable; the message names the cause.
        MissingDependencyError: No onnxruntime is installed.
        UsageError: There is no such provider, or ``threads`` is below 1.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if check_hashes:
        check_files(folder, manifest)
    return Embedder(folder, manifest, provider=provider, threads=threads)


class Embedder:
    """An artifact, loaded.

    Attributes:
        manifest: The artifact's record.
        output_dim: Length of a vector.
        provider: The execution provider that is active.
        provider_reason: Why it is this one.
        tower: The kind of item that it embeds.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, provider: str = "auto", threads: int | None = None) -> None:
        """Loads the graph in ``folder`` that ``manifest`` describes; :func:`load` is the usual way here."""
        self.manifest = manifest
        self.output_dim = manifest.output_dim
        self.tower, tower = next(iter(manifest.towers.items()))
        self._preprocessor = _build_preprocessor(tower.preprocessing, folder)
        self._session = Session(folder / tower.graph, tower, provider=provider, threads=threads)
        self.provider = self._session.provider
        self.provider_reason = self._session.provider_reason

    def __repr__(self) -> str:
        return f"<Embedder {self.manifest.backbone}: {self.tower} to {self.output_dim} dimensions by {self.provider}>"

    @overload
    def embed(
        self,
        items: Iterable[Item],
        *,
        batch_size: int = ...,
        progress: bool = ...,
        on_error: Literal["raise"] = ...,
        truncate: Literal["count", "error"] = ...,
    ) -> Vectors: ...

    @overload
    def embed(
        self,
        items: Iterable[Item],
        *,
        batch_size: int = ...,
        progress: bool = ...,
        on_error: Literal["skip"],
        truncate: Literal["count", "error"] = ...,
    ) -> PartialEmbeddings: ...

    def embed(
        self,
        items: Iterable[Item],
        *,
        batch_size: int = 32,
        progress: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        truncate: Literal["count", "error"] = "count",
    ) -> Vectors | PartialEmbeddings:
        """Embeds items.

        Args:
            items: Strings for a text artifact. For an image artifact paths, bytes of image files, PIL images, or
                ``[height, width, 3]`` uint8 RGB arrays, mixed at will. An iterator is read to its end first.
            batch_size: Items that go through the graph together.
            progress: Whether to draw a progress bar on standard error.
            on_error: ``raise`` stops at the first item that cannot be read; ``skip`` leaves it out and says so.
            truncate: What to do with texts of more tokens than the model takes: ``count`` embeds their beginning, logs
                a warning with their number, and lists them in what ``skip`` returns; ``error`` counts as unreadable.

        Returns:
            ``[len(items), output_dim]`` float32, in the order of ``items``; with ``skip``, those rows that could be
            made, with their indices and the errors of the others.

        Raises:
            ItemError: With ``raise``, an item cannot be read; the error names it by index and path.
            InferenceError: ONNX Runtime refuses a batch, for want of memory, say.
            NonFiniteError: The graph returned NaN or infinity.
            UsageError: An argument cannot be right.
        """
        rows = _as_sequence(items)
        _check_arguments(batch_size, on_error, truncate)
        vectors = np.empty((len(rows), self.output_dim), dtype=np.float32)
        kept: list[int] = []
        truncated: list[int] = []
        failures: list[ItemError] = []
        for start in _batch_starts(len(rows), batch_size, progress):
            batch: list[Row] = []
            for index in range(start, min(start + batch_size, len(rows))):
                try:
                    batch.append(self._prepare(index, rows[index], truncate))
                except ItemError as exc:
                    if on_error == "raise":
                        raise
                    failures.append(exc)
                else:
                    kept.append(index)
                    if _is_truncated(batch[-1]):
                        truncated.append(index)
            if batch:
                vectors[len(kept) - len(batch) : len(kept)] = self._run(batch)
        if truncated:
            _LOG.warning("%d of %d texts were cut to the model's limit of tokens", len(truncated), len(rows))
        if on_error == "raise":
            return vectors
        kept_indices, cut_indices = (np.array(indices, dtype=np.int64) for indices in (kept, truncated))
        return PartialEmbeddings(vectors[: len(kept)], kept_indices, failures, cut_indices)

    def _prepare(self, index: int, item: Any, truncate: str) -> Row:
        try:
            row = self._preprocessor.prepare(item)
            if truncate == "error" and _is_truncated(row):
                raise UnusableItemError("it has more tokens than the model takes; shorten it, or let it be cut")
        except UnusableItemError as exc:
            raise ItemError(index, _name(item), str(exc)) from exc
        return row

    def _run(self, batch: list[Any]) -> Vectors:
        vectors = self._session.run(self._preprocessor.collate(batch))
        if not np.isfinite(vectors).all():
            raise NonFiniteError(
                f"the {self.tower} graph returned NaN or infinity on the provider {self.provider}; "
                "check the artifact with `python -m runtime verify`, or take another provider"
            )
        return vectors


def _build_preprocessor(preprocessing: Preprocessing, folder: Path) -> ImagePreprocessor | TextPreprocessor:
    """Imports what this kind of item needs, and nothing of the other kinds."""
    if isinstance(preprocessing, ImagePreprocessing):
        from runtime.preprocess.image import ImagePreprocessor

        return ImagePreprocessor(preprocessing)
    if isinstance(preprocessing, TextPreprocessing):
        from runtime.preprocess.text import TextPreprocessor

        return TextPreprocessor(preprocessing, folder)
    assert_never(preprocessing)


def _is_truncated(row: Row) -> bool:
    return bool(getattr(row, "truncated", False))


def _name(item: object) -> str:
    """Returns what names an item in an error: a path as it is, a text by its beginning, else the type."""
    if isinstance(item, str | os.PathLike):
        name = os.fspath(item)
        return str(name) if len(str(name)) <= _NAME_LENGTH else f"{str(name)[:_NAME_LENGTH]}..."
    return type(item).__name__


def _check_arguments(batch_size: int, on_error: str, truncate: str) -> None:
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UsageError(f"batch_size is {batch_size!r}, it must be a number from 1 up")
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error is {on_error!r}, it must be 'raise' or 'skip'")
    if truncate not in ("count", "error"):
        raise UsageError(f"truncate is {truncate!r}, it must be 'count' or 'error'")


def _as_sequence(items: Iterable[Item]) -> Sequence[Item]:
    if isinstance(items, str | bytes | os.PathLike) or not isinstance(items, Iterable):
        raise UsageError(f"embed takes several items, not one {type(items).__name__}; write embed([item])")
    if isinstance(items, np.ndarray) and items.ndim == 3:
        raise UsageError("embed takes several items, not one [height, width, 3] array; write embed([array])")
    return items if isinstance(items, Sequence) else list(items)


def _batch_starts(count: int, batch_size: int, progress: bool) -> Iterator[int]:
    starts = range(0, count, batch_size)
    if not progress:
        yield from starts
        return
    from tqdm import tqdm  # only who watches pays for the import

    with tqdm(total=count, unit="item", desc="embed") as bar:
        for start in starts:
            yield start
            bar.update(min(batch_size, count - start))
