"""Embed items in one process: prepare them in threads while the graph runs, in order and in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from runtime.array_types import Array, Float32Array
from runtime.artifact.manifest import Tower, TowerName
from runtime.errors import ItemError
from runtime.inference.batching import windows
from runtime.inference.options import EmbedOptions
from runtime.inference.tower import BatchSizes, LoadedTower, Row, is_truncated
from runtime.postprocess import truncate_and_normalize
from runtime.preprocess.files import looks_like_image_path
from runtime.preprocess.item import UnusableItemError
from runtime.session.provider_options import ProviderOptions
from runtime.session.session import CancellationToken, SessionOptions
from runtime.session.variant_selection import GraphChoice

OnProgress: TypeAlias = Callable[[int], object]
_NAME_LENGTH = 200
_WINDOWS_AHEAD = 2  # one in inference, one in preparation


class PartialEmbeddings(NamedTuple):
    """The vectors of the items that could be embedded, and the errors of the others.

    Attributes:
        vectors: ``[len(kept), output_dim]`` float32, unless the call asked for another type or number of dimensions.
        kept: ``[len(kept)]`` int64: the input index of each row's item.
        failures: One error for each item that was left out.
        truncated: ``[texts]`` int64: the input index of each text that was cut.
    """

    vectors: Array
    kept: np.ndarray[Any, np.dtype[np.int64]]
    failures: list[ItemError]
    truncated: np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True)
class BackendInfo:
    """The active provider, threads and graphs of a backend.

    Attributes:
        provider: Name of the execution provider.
        provider_options: Settings of the provider.
        provider_reason: Reason for the choice of the provider.
        threads: Threads of one run.
        towers: Kinds of item that can be embedded.
        choices: Graph that runs for each tower.
    """

    provider: str
    provider_options: ProviderOptions
    provider_reason: str
    threads: int
    towers: tuple[TowerName, ...]
    choices: Mapping[TowerName, GraphChoice]


class PreparedItem(NamedTuple):
    """An item that is ready for the graph.

    Attributes:
        tower: Tower that embeds it.
        row: Its row of the graph's input.
    """

    tower: TowerName
    row: Row


class Pipeline:
    """The loaded towers of an artifact, and the threads that prepare and embed items.

    Attributes:
        towers: Loaded towers by name.
        output_dim: Length of a vector.
        info: The active provider, threads and graphs.
    """

    def __init__(
        self, folder: Path, towers: Mapping[TowerName, Tower], output_dim: int, options: SessionOptions
    ) -> None:
        """Load ``towers`` from ``folder``. All towers use the provider that ``auto`` chooses for the first."""
        self.towers: dict[TowerName, LoadedTower] = {}
        self.output_dim = output_dim
        for name, record in towers.items():
            self.towers[name] = LoadedTower(folder, record, options)
            session = self.towers[name].session
            options = replace(options, provider=session.provider.name, provider_options=session.provider_options)
        first = next(iter(self.towers.values())).session
        self.info = BackendInfo(
            provider=first.provider.name,
            provider_options=first.provider_options,
            provider_reason=first.provider_reason,
            threads=first.threads,
            towers=tuple(self.towers),
            choices={name: tower.session.choice for name, tower in self.towers.items()},
        )

    def close(self) -> None:
        """Do nothing; garbage collection frees the graphs."""

    def stream(
        self, items: Iterable[Any], options: EmbedOptions, on_progress: OnProgress | None = None
    ) -> Iterator[PartialEmbeddings]:
        """Yield the vectors and errors of ``items``, in order, one window at a time.

        An iterator is read only as far as the windows in flight. Inference runs in another thread, except for very
        few items, so that Ctrl-C takes effect at once. Ctrl-C and closing the generator cancel the work in progress.

        Args:
            items: As for :meth:`runtime.Embedder.embed`.
            options: Options of the embedding call.
            on_progress: Callback that receives the number of items of each finished batch, from another thread.
        """
        call = _EmbeddingCall(self, options, on_progress or (lambda count: None))
        sizes = self._batch_sizes(options)
        if isinstance(items, Sequence) and len(items) <= sizes.chunk:  # threads would only add overhead
            if items:
                yield call.embed(0, call.prepare(0, items))
            return
        yield from self._stream_in_threads(items, sizes, options, call)

    def _stream_in_threads(
        self, items: Iterable[Any], sizes: BatchSizes, options: EmbedOptions, call: _EmbeddingCall
    ) -> Iterator[PartialEmbeddings]:
        size = max(sizes.window, 2 * (options.batch_size or 0))
        pending: deque[Future[PartialEmbeddings]] = deque()
        preparing = ThreadPoolExecutor(self.info.threads, thread_name_prefix="prepare")
        inferring = ThreadPoolExecutor(1, thread_name_prefix="infer")
        try:
            start = 0
            for window in windows(items, size):
                chunks = [
                    preparing.submit(call.prepare, start + at, window[at : at + sizes.chunk])
                    for at in range(0, len(window), sizes.chunk)
                ]
                pending.append(inferring.submit(call.embed_chunks, start, chunks))
                start += len(window)
                if len(pending) > _WINDOWS_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            call.cancellation.cancel()
            preparing.shutdown(wait=False, cancel_futures=True)
            inferring.shutdown(wait=False, cancel_futures=True)

    def _batch_sizes(self, options: EmbedOptions) -> BatchSizes:
        """Return the sizes of the requested tower, or those with the smallest window of all towers."""
        towers = [self.towers[options.tower]] if options.tower else list(self.towers.values())
        return min((tower.batch_sizes for tower in towers), key=lambda sizes: sizes.window)


class _EmbeddingCall:
    """The steps of one call of :meth:`Pipeline.stream`."""

    def __init__(self, pipeline: Pipeline, options: EmbedOptions, on_progress: OnProgress) -> None:
        self.cancellation = CancellationToken()
        self._pipeline = pipeline
        self._options = options
        self._on_progress = on_progress

    def prepare(self, start: int, items: Sequence[Any]) -> list[PreparedItem | ItemError]:
        """Return each item's row, or its error; ``start`` is the index of the first item."""
        choices = [self._choose_tower(item) for item in items]
        rows: dict[int, Row | UnusableItemError] = {}
        for name, tower in self._pipeline.towers.items():
            positions = [position for position, choice in enumerate(choices) if choice == name]
            chosen = tower.prepare(
                [items[position] for position in positions], truncate=self._options.truncate == "count"
            )
            rows |= zip(positions, chosen, strict=True)
        return [
            _prepared_or_error(start + position, items[position], choice, rows.get(position))
            for position, choice in enumerate(choices)
        ]

    def embed_chunks(self, start: int, chunks: Sequence[Future[list[PreparedItem | ItemError]]]) -> PartialEmbeddings:
        """Wait for the chunks of a window and embed it."""
        return self.embed(start, [item for chunk in chunks for item in chunk.result()])

    def embed(self, start: int, items: Sequence[PreparedItem | ItemError]) -> PartialEmbeddings:
        """Run the graphs on the items of a window, and return the vectors in the order of the items."""
        failures = [item for item in items if isinstance(item, ItemError)]
        if failures and self._options.on_error == "raise":
            raise failures[0]
        usable = [(index, item) for index, item in enumerate(items, start) if isinstance(item, PreparedItem)]
        vectors = self._run([item for _, item in usable])
        self._on_progress(len(failures))
        return PartialEmbeddings(
            truncate_and_normalize(vectors, self._options.truncate_dim, self._options.normalize),
            np.array([index for index, _ in usable], dtype=np.int64),
            failures,
            np.array([index for index, item in usable if is_truncated(item.row)], dtype=np.int64),
        )

    def _run(self, items: Sequence[PreparedItem]) -> Float32Array:
        vectors = np.empty((len(items), self._pipeline.output_dim), dtype=np.float32)
        for name, tower in self._pipeline.towers.items():
            positions = [position for position, item in enumerate(items) if item.tower == name]
            for batch in tower.plan_batches([items[at].row for at in positions], self._options.batch_size):
                chosen = [positions[at] for at in batch]
                vectors[chosen] = tower.embed([items[at].row for at in chosen], self.cancellation)
                self._on_progress(len(chosen))
        return vectors

    def _choose_tower(self, item: object) -> TowerName | UnusableItemError:
        if self._options.tower is not None:
            return self._options.tower
        if len(self._pipeline.towers) == 1:
            return next(iter(self._pipeline.towers))
        if not isinstance(item, str):
            return "image"
        if looks_like_image_path(item):
            return UnusableItemError(
                "a string is a text, but this one looks like the path of an image: pass a pathlib.Path for an image, "
                "or call embed_image or embed_text"
            )
        return "text"


def _prepared_or_error(
    index: int, item: object, choice: TowerName | UnusableItemError, row: Row | UnusableItemError | None
) -> PreparedItem | ItemError:
    if not isinstance(choice, UnusableItemError) and row is not None and not isinstance(row, UnusableItemError):
        return PreparedItem(choice, row)
    reason = choice if isinstance(choice, UnusableItemError) else row
    error = ItemError(index, _item_name(item), str(reason))
    error.__cause__ = reason if isinstance(reason, UnusableItemError) else None
    return error


def _item_name(item: object) -> str:
    """Return the name of an item in an error: the path, the beginning of the text, or the type."""
    if isinstance(item, str | os.PathLike):
        name = str(os.fspath(item))
        return name if len(name) <= _NAME_LENGTH else f"{name[:_NAME_LENGTH]}..."
    return type(item).__name__
