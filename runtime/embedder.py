"""load() and the Embedder: items in, vectors out, in the order in which they were given."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np

from runtime.artifact import check_files, read_manifest
from runtime.errors import ItemError, UsageError
from runtime.manifest import Manifest, TowerName
from runtime.preprocess import UnusableItemError, looks_like_image_path
from runtime.tower import LoadedTower, Row, Vectors, group_key, is_truncated

if TYPE_CHECKING:
    from runtime.preprocess.image import ImageItem
    from runtime.preprocess.pointcloud import PointCloudItem

_NAME_LENGTH = 200
_ITEM_AXES = {"image": 3, "mesh": 2}  # of an item that is an array
_LOG = logging.getLogger("runtime")
_WARNS = ContextVar("warns", default=True)
Item: TypeAlias = "ImageItem | PointCloudItem"  # a string is a text to a text tower and a path to the others


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
    path: str | os.PathLike[str],
    *,
    provider: str = "auto",
    threads: int | None = None,
    check_hashes: bool = True,
    tower: TowerName | None = None,
) -> Embedder:
    """Loads an artifact.

    Args:
        path: The artifact's folder.
        provider: ``cpu``, ``cuda``, ``openvino``, or ``auto``: the first of cuda, openvino, cpu that works here.
            A provider that is named is used or refused, never replaced.
        threads: Threads of one call; by default as many as affinity mask and container quota allow.
        check_hashes: Whether to compare every file with its recorded hash first.
        tower: The only tower to load, ``text`` or ``image``, where there are two; by default all.

    Raises:
        ArtifactError: The folder is not an artifact, is damaged, or is of another schema.
        ProviderError: The provider is not usable; the message names the cause.
        MissingDependencyError: No onnxruntime is installed.
        UsageError: There is no such provider or tower, or ``threads`` is below 1.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if check_hashes:
        check_files(folder, manifest)
    return Embedder(folder, manifest, provider=provider, threads=threads, tower=tower)


class Embedder:
    """An artifact, loaded.

    Attributes:
        manifest: The artifact's record.
        output_dim: Length of a vector.
        provider: The execution provider that is active.
        provider_reason: Why it is this one.
        towers: The kinds of item that it embeds, ``text``, ``image`` or ``mesh``.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        provider: str = "auto",
        threads: int | None = None,
        tower: TowerName | None = None,
    ) -> None:
        """Loads the graphs in ``folder`` that ``manifest`` describes; :func:`load` is the usual way here."""
        self.manifest = manifest
        self.output_dim = manifest.output_dim
        chosen = manifest.towers if tower is None else {tower: manifest.towers[_check_tower(tower, manifest.towers)]}
        self._towers: dict[TowerName, LoadedTower] = {}
        for name, record in chosen.items():
            self._towers[name] = LoadedTower(folder, record, provider=provider, threads=threads)
            provider = self._towers[name].session.provider  # what auto chose for one tower is asked of the next
        self.towers = tuple(self._towers)
        session = self._towers[self.towers[0]].session
        self.provider = session.provider
        self.provider_reason = session.provider_reason

    def __repr__(self) -> str:
        kinds = " and ".join(self.towers)
        return f"<Embedder {self.manifest.name}: {kinds} to {self.output_dim} dimensions by {self.provider}>"

    def embed_text(
        self,
        texts: Iterable[str],
        *,
        batch_size: int = 32,
        progress: bool = False,
        truncate: Literal["count", "error"] = "count",
    ) -> Vectors:
        """Embeds strings by the text tower: :meth:`embed` with ``tower="text"``."""
        return self.embed(texts, tower="text", batch_size=batch_size, progress=progress, truncate=truncate)

    def embed_image(self, images: Iterable[ImageItem], *, batch_size: int = 32, progress: bool = False) -> Vectors:
        """Embeds images by the image tower, where a string is a path: :meth:`embed` with ``tower="image"``."""
        return self.embed(images, tower="image", batch_size=batch_size, progress=progress)

    @overload
    def embed(
        self,
        items: Iterable[Item],
        *,
        tower: TowerName | None = ...,
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
        tower: TowerName | None = ...,
        batch_size: int = ...,
        progress: bool = ...,
        on_error: Literal["skip"],
        truncate: Literal["count", "error"] = ...,
    ) -> PartialEmbeddings: ...

    def embed(
        self,
        items: Iterable[Item],
        *,
        tower: TowerName | None = None,
        batch_size: int = 32,
        progress: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        truncate: Literal["count", "error"] = "count",
    ) -> Vectors | PartialEmbeddings:
        """Embeds items.

        Args:
            items: For a text tower strings; for an image tower paths, bytes of image files, PIL images, or
                ``[height, width, 3]`` uint8 RGB arrays; for a mesh tower paths of mesh files, objects with vertices and
                faces, or ``[points, 3]`` arrays. Mixed at will; an iterator is read to its end first.
            tower: The tower that embeds them. Needless where there is only one, or where the items tell: with a text
                and an image tower, a string is a text, and everything else an image.
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
        _check_arguments(batch_size, on_error, truncate)
        if tower is not None:
            _check_tower(tower, self._towers)
        rows = _as_sequence(items, tower or self.towers[0])
        vectors = np.empty((len(rows), self.output_dim), dtype=np.float32)
        kept: list[int] = []
        truncated: list[int] = []
        failures: list[ItemError] = []
        for start in _batch_starts(len(rows), batch_size, progress):
            batch: list[tuple[TowerName, Row]] = []
            for index in range(start, min(start + batch_size, len(rows))):
                try:
                    name, row = self._prepare(index, rows[index], tower, truncate)
                except ItemError as exc:
                    if on_error == "raise":
                        raise
                    failures.append(exc)
                else:
                    batch.append((name, row))
                    kept.append(index)
                    if is_truncated(row):
                        truncated.append(index)
            vectors[len(kept) - len(batch) : len(kept)] = self._embed_batch(batch)
        if truncated and _WARNS.get():
            _LOG.warning("%d of %d texts were cut to the model's limit of tokens", len(truncated), len(rows))
        if on_error == "raise":
            return vectors
        kept_indices, cut_indices = (np.array(indices, dtype=np.int64) for indices in (kept, truncated))
        return PartialEmbeddings(vectors[: len(kept)], kept_indices, failures, cut_indices)

    def _prepare(self, index: int, item: Any, tower: TowerName | None, truncate: str) -> tuple[TowerName, Row]:
        try:
            name = tower or self._choose_tower(item)
            return name, self._towers[name].prepare(item, truncate=truncate == "count")
        except UnusableItemError as exc:
            raise ItemError(index, _name(item), str(exc)) from exc

    def _choose_tower(self, item: object) -> TowerName:
        if len(self.towers) == 1:
            return self.towers[0]
        if not isinstance(item, str):
            return "image"
        if looks_like_image_path(item):
            raise UnusableItemError(
                "as a string it is a text, and it ends as an image's path does: give a pathlib.Path, or say which "
                "it is by embed_image or embed_text"
            )
        return "text"

    def _embed_batch(self, batch: Sequence[tuple[TowerName, Row]]) -> Vectors:
        """Runs together what can go together, and returns the vectors in the order of ``batch``."""
        groups: dict[tuple[TowerName, tuple[int, ...]], list[int]] = {}
        for position, (name, row) in enumerate(batch):
            groups.setdefault((name, group_key(row)), []).append(position)
        vectors = np.empty((len(batch), self.output_dim), dtype=np.float32)
        for (name, _), positions in groups.items():
            vectors[positions] = self._towers[name].embed([batch[position][1] for position in positions])
        return vectors


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps :meth:`Embedder.embed` from warning of texts that are cut: those of a comparison are there to be cut."""
    token = _WARNS.set(False)
    try:
        yield
    finally:
        _WARNS.reset(token)


def _check_tower(tower: TowerName, towers: Iterable[TowerName]) -> TowerName:
    if tower not in towers:
        raise UsageError(f"there is no {tower} tower; the artifact has {' and '.join(towers)}")
    return tower


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


def _as_sequence(items: Iterable[Item], tower: TowerName) -> Sequence[Item]:
    if isinstance(items, str | bytes | os.PathLike) or not isinstance(items, Iterable):
        raise UsageError(f"embed takes several items, not one {type(items).__name__}; write embed([item])")
    if isinstance(items, np.ndarray) and items.ndim == _ITEM_AXES.get(tower):
        raise UsageError(f"embed takes several items, not one {list(items.shape)} array; write embed([array])")
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
