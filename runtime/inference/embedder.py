"""load() and the Embedder: items in, vectors out, in the order in which they were given."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias, overload

import numpy as np

from runtime.artifact.manifest import Manifest, TowerName
from runtime.errors import UsageError
from runtime.inference.options import EmbedOptions
from runtime.inference.pipeline import Active, OnProgress, PartialEmbeddings
from runtime.postprocess import Dtype, check_dtype, quantize

if TYPE_CHECKING:
    from runtime.preprocess.image import ImageItem
    from runtime.preprocess.point_cloud import PointCloudItem

_ITEM_AXES = {"image": 3, "mesh": 2}  # of an item that is an array
_LOG = logging.getLogger("runtime")
_WARNS = ContextVar("warns", default=True)
Array = np.ndarray[Any, Any]
Item: TypeAlias = "ImageItem | PointCloudItem"  # a string is a text to a text tower and a path to the others


class Backend(Protocol):
    """What runs the graphs for an :class:`Embedder`: a pipeline in this process, or workers."""

    @property
    def active(self) -> Active:
        """What embeds, in fact."""

    def stream(
        self, items: Iterable[Any], embed_options: EmbedOptions, on_progress: OnProgress | None = None
    ) -> Iterator[PartialEmbeddings]:
        """Yields what becomes of ``items``, in order; see :meth:`runtime.inference.pipeline.Pipeline.stream`."""

    def close(self) -> None:
        """Ends what was started."""


class Embedder:
    """An artifact, loaded. Several threads may use one at once.

    Attributes:
        manifest: The artifact's record.
        output_dim: Length of a vector.
        provider: The execution provider that is active.
        provider_options: Its settings.
        provider_reason: Why it is this one.
        variants: Name of the graph that runs for each tower.
        variant: That name; of each tower, where they differ.
        variant_reason: Why it is this one.
        threads: Number of threads that one run uses.
        towers: The kinds of item that it embeds, ``text``, ``image`` or ``mesh``.
    """

    def __init__(self, manifest: Manifest, backend: Backend) -> None:
        """Embeds by ``backend`` what ``manifest`` describes; :func:`load` is the usual way here."""
        self.manifest = manifest
        self.output_dim = manifest.output_dim
        self.provider = backend.active.provider
        self.provider_options = backend.active.provider_options
        self.provider_reason = backend.active.provider_reason
        self.variants = {name: choice.name for name, choice in backend.active.choices.items()}
        self.variant = _join_towers(self.variants)
        self.variant_reason = _join_towers({name: choice.reason for name, choice in backend.active.choices.items()})
        self.threads = backend.active.threads
        self.towers = backend.active.towers
        self._backend = backend

    def __repr__(self) -> str:
        kinds = " and ".join(self.towers)
        return f"<Embedder {self.manifest.name}: {kinds} to {self.output_dim} dimensions by {self.provider}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers, where there are any."""
        self._backend.close()

    def embed_text(
        self,
        texts: Iterable[str],
        *,
        batch_size: int | None = None,
        progress: bool = False,
        truncate: Literal["count", "error"] = "count",
    ) -> Array:
        """Embeds strings by the text tower: :meth:`embed` with ``tower="text"``."""
        return self.embed(texts, tower="text", batch_size=batch_size, progress=progress, truncate=truncate)

    def embed_image(
        self, images: Iterable[ImageItem], *, batch_size: int | None = None, progress: bool = False
    ) -> Array:
        """Embeds images by the image tower, where a string is a path: :meth:`embed` with ``tower="image"``."""
        return self.embed(images, tower="image", batch_size=batch_size, progress=progress)

    @overload
    def embed(
        self,
        items: Iterable[Item],
        *,
        tower: TowerName | None = ...,
        batch_size: int | None = ...,
        progress: bool = ...,
        on_error: Literal["raise"] = ...,
        truncate: Literal["count", "error"] = ...,
        normalize: bool = ...,
        truncate_dim: int | None = ...,
        dtype: Dtype = ...,
        ranges: Array | None = ...,
    ) -> Array: ...

    @overload
    def embed(
        self,
        items: Iterable[Item],
        *,
        tower: TowerName | None = ...,
        batch_size: int | None = ...,
        progress: bool = ...,
        on_error: Literal["skip"],
        truncate: Literal["count", "error"] = ...,
        normalize: bool = ...,
        truncate_dim: int | None = ...,
        dtype: Dtype = ...,
        ranges: Array | None = ...,
    ) -> PartialEmbeddings: ...

    def embed(
        self,
        items: Iterable[Item],
        *,
        tower: TowerName | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        truncate: Literal["count", "error"] = "count",
        normalize: bool = False,
        truncate_dim: int | None = None,
        dtype: Dtype = "float32",
        ranges: Array | None = None,
    ) -> Array | PartialEmbeddings:
        """Embeds items.

        Args:
            items: For a text tower strings; for an image tower paths, bytes of image files, PIL images, or
                ``[height, width, 3]`` uint8 RGB arrays; for a mesh tower paths of mesh files, objects with vertices and
                faces, or ``[points, 3]`` arrays. Mixed at will.
            tower: The tower that embeds them. Needless where there is only one, or where the items tell: with a text
                and an image tower, a string is a text, and everything else an image.
            batch_size: Items that go through the graph together at most; by default as many as fit a budget of tokens,
                images or points, for images and meshes one that was tuned on this machine, if any was. Texts of like
                length go together either way.
            progress: Whether to draw a progress bar on standard error.
            on_error: ``raise`` stops at the first item that cannot be read; ``skip`` leaves it out and says so.
            truncate: What to do with texts of more tokens than the model takes: ``count`` embeds their beginning, logs
                a warning with their number, and lists them in what ``skip`` returns; ``error`` counts as unreadable.
            normalize: Whether vectors are brought to unit length, after ``truncate_dim``.
            truncate_dim: How many dimensions are kept, from the first on; by default all.
            dtype: Type of the vectors: ``float32``, ``float16``, ``int8`` or ``binary``; see
                :func:`runtime.postprocess.quantize`, which has the same for vectors that are there already.
            ranges: For ``int8``, the ``[2, dim]`` of :func:`runtime.postprocess.int8_ranges` over vectors of the like; by
                default over these. Vectors that are to be compared need the same.

        Returns:
            ``[len(items), output_dim]`` float32, in the order of ``items``, or as ``dtype`` and ``truncate_dim`` say;
            with ``skip``, those rows that could be made, with their indices and the errors of the others.

        Raises:
            ItemError: With ``raise``, an item cannot be read; the error names it by index and path.
            InferenceError: ONNX Runtime refuses a batch, for want of memory, say.
            NonFiniteError: The graph returned NaN or infinity.
            UsageError: An argument cannot be right.
        """
        dim = truncate_dim or self.output_dim
        check_dtype(dtype, ranges, dim)
        total = len(items) if isinstance(items, Sized) else None
        with _bar(total) if progress else nullcontext() as on_progress:
            parts = self.embed_stream(
                items,
                tower=tower,
                batch_size=batch_size,
                on_error=on_error,
                truncate=truncate,
                normalize=normalize,
                truncate_dim=truncate_dim,
                on_progress=on_progress,
            )
            embedded = _join(parts, total, dim)
        vectors = quantize(embedded.vectors, dtype, ranges)
        return vectors if on_error == "raise" else embedded._replace(vectors=vectors)

    def embed_stream(
        self,
        items: Iterable[Item],
        *,
        tower: TowerName | None = None,
        batch_size: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        truncate: Literal["count", "error"] = "count",
        normalize: bool = False,
        truncate_dim: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Generator[PartialEmbeddings, None, None]:
        """Embeds items as they come, in bounded memory: a million of them from a generator.

        Some hundred items are in flight at a time, and of ``items`` no more is read. Close the generator, or leave it,
        and what is under way ends.

        Args:
            items: As for :meth:`embed`.
            tower: As for :meth:`embed`, and so are the others that it has.
            batch_size: See there.
            on_error: See there.
            truncate: See there.
            normalize: See there.
            truncate_dim: See there.
            on_progress: Is called with the number of items that a batch has finished, from another thread.

        Yields:
            The vectors of the next items, in the order of ``items``, with their indices. Each part goes on where the
            one before ended, so that ``len(kept) + len(failures)`` is the number of items that it is about.

        Raises:
            EmbeddingBackbonesError: As :meth:`embed`, when the item's turn has come.
        """
        embed_options = EmbedOptions(
            tower=tower,
            batch_size=batch_size,
            on_error=on_error,
            truncate=truncate,
            normalize=normalize,
            truncate_dim=truncate_dim,
        )
        return self.stream(items, embed_options, on_progress)

    def stream(
        self, items: Iterable[Item], options: EmbedOptions, on_progress: OnProgress | None = None
    ) -> Generator[PartialEmbeddings, None, None]:
        """Embed items like :meth:`embed_stream`, with the options in one record."""
        if options.tower is not None:
            check_tower(options.tower, self.towers)
        if options.truncate_dim is not None and options.truncate_dim > self.output_dim:
            raise UsageError(
                f"truncate_dim is {options.truncate_dim}, and the vectors have {self.output_dim} dimensions"
            )
        items = _as_items(items, options.tower or self.towers[0])
        return _counting_truncated(self._backend.stream(items, options, on_progress))


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps :meth:`Embedder.embed` from warning of texts that are cut: those of a comparison are there to be cut."""
    token = _WARNS.set(False)
    try:
        yield
    finally:
        _WARNS.reset(token)


def _counting_truncated(parts: Iterator[PartialEmbeddings]) -> Generator[PartialEmbeddings, None, None]:
    truncated = total = 0
    for part in parts:
        truncated += len(part.truncated)
        total += len(part.kept) + len(part.failures)
        yield part
    if truncated and _WARNS.get():
        _LOG.warning("%d of %d texts were cut to the model's limit of tokens", truncated, total)


def _join(parts: Iterator[PartialEmbeddings], total: int | None, dim: int) -> PartialEmbeddings:
    """Returns ``parts`` as one; where their number of items is known, without ever holding the vectors twice."""
    vectors = np.empty((total or 0, dim), dtype=np.float32)
    pieces, kept, truncated, failures, rows = [], [], [], [], 0
    for part in parts:
        if total is None:
            pieces.append(part.vectors)
        else:
            vectors[rows : rows + len(part.vectors)] = part.vectors
        rows += len(part.vectors)
        kept.append(part.kept)
        truncated.append(part.truncated)
        failures += part.failures
    none = np.empty(0, dtype=np.int64)
    return PartialEmbeddings(
        np.concatenate([vectors, *pieces])[:rows] if total is None else vectors[:rows],
        np.concatenate([none, *kept]),
        failures,
        np.concatenate([none, *truncated]),
    )


def _join_towers(values: Mapping[TowerName, str]) -> str:
    """Returns what all towers have in common, or what each has."""
    first, *others = dict.fromkeys(values.values())
    return first if not others else ", ".join(f"{name}: {value}" for name, value in values.items())


def check_tower(tower: TowerName, towers: Iterable[TowerName]) -> None:
    """Raise :class:`UsageError` unless ``towers`` has ``tower``."""
    if tower not in towers:
        raise UsageError(f"there is no {tower} tower; the artifact has {' and '.join(towers)}")


def _as_items(items: Iterable[Any], tower: TowerName) -> Iterable[Any]:
    if isinstance(items, str | bytes | os.PathLike) or not isinstance(items, Iterable):
        raise UsageError(f"embed takes several items, not one {type(items).__name__}; write embed([item])")
    if isinstance(items, np.ndarray):
        if items.ndim == _ITEM_AXES.get(tower):
            raise UsageError(f"embed takes several items, not one {list(items.shape)} array; write embed([array])")
        return list(items)
    return items


@contextmanager
def _bar(total: int | None) -> Iterator[Callable[[int], object]]:
    from tqdm import tqdm  # only who watches pays for the import

    with tqdm(total=total, unit="item", desc="embed") as bar:
        yield bar.update
