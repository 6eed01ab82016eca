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
from runtime.preprocess.item import UnusableItemError, prepare_each
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


def concatenate(parts: Iterable[PartialEmbeddings], dim: int) -> PartialEmbeddings:
    """Concatenate any number of parts, whose vectors have ``dim`` dimensions."""
    none = np.empty(0, dtype=np.int64)
    parts = [PartialEmbeddings(np.empty((0, dim), dtype=np.float32), none, [], none), *parts]
    return PartialEmbeddings(
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.kept for part in parts]),
        [failure for part in parts for failure in part.failures],
        np.concatenate([part.truncated for part in parts]),
    )


@dataclass(frozen=True, kw_only=True)
class BackendInfo:
    """The active provider, threads and towers of a backend, and the graph that runs for each tower."""

    provider: str
    provider_options: ProviderOptions
    provider_reason: str
    threads: int
    towers: tuple[TowerName, ...]
    choices: Mapping[TowerName, GraphChoice]


class PreparedItem(NamedTuple):
    """The row of an item in the graph's input, and the tower that embeds it."""

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
        ``on_progress`` receives the number of items of each finished batch. A prompt must be its text, not its name:
        see :func:`runtime.inference.prompts.resolve_prompt`.
        """
        towers = {options.tower: self.towers[options.tower]} if options.tower else self.towers
        call = _EmbeddingCall(towers, self.output_dim, options, on_progress or (lambda count: None))
        sizes = min((tower.batch_sizes for tower in towers.values()), key=lambda sizes: sizes.window)
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


class _EmbeddingCall:
    """The steps of one call of :meth:`Pipeline.stream`."""

    def __init__(
        self, towers: Mapping[TowerName, LoadedTower], output_dim: int, options: EmbedOptions, on_progress: OnProgress
    ) -> None:
        self.cancellation = CancellationToken()
        self._towers, self._output_dim, self._options, self._on_progress = towers, output_dim, options, on_progress

    def prepare(self, start: int, items: Sequence[Any]) -> list[PreparedItem | ItemError]:
        """Return each item's row, or its error; ``start`` is the index of the first item."""
        choices = prepare_each(self._choose_tower, items)
        results: dict[int, PreparedItem | UnusableItemError] = {
            at: choice for at, choice in enumerate(choices) if isinstance(choice, UnusableItemError)
        }
        for name, tower in self._towers.items():
            positions = [at for at, choice in enumerate(choices) if choice == name]
            prompt = self._options.prompt if name == "text" else None
            chosen = [items[at] for at in positions]
            rows = tower.prepare(chosen, truncate=self._options.truncate == "count", prompt=prompt)
            for at, row in zip(positions, rows, strict=True):
                results[at] = row if isinstance(row, UnusableItemError) else PreparedItem(name, row)
        return [_with_index(start + at, item, results[at]) for at, item in enumerate(items)]

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
        vectors = np.empty((len(items), self._output_dim), dtype=np.float32)
        for name, tower in self._towers.items():
            positions = [position for position, item in enumerate(items) if item.tower == name]
            for batch in tower.plan_batches([items[at].row for at in positions], self._options.batch_size):
                chosen = [positions[at] for at in batch]
                vectors[chosen] = tower.embed([items[at].row for at in chosen], self.cancellation)
                self._on_progress(len(chosen))
        return vectors

    def _choose_tower(self, item: object) -> TowerName:
        if len(self._towers) == 1:
            return next(iter(self._towers))
        if not isinstance(item, str):
            return "image"
        if looks_like_image_path(item):
            raise UnusableItemError(
                "a string is a text, but this one looks like the path of an image: pass a pathlib.Path for an image, "
                "or call embed_image or embed_text"
            )
        return "text"


def _with_index(index: int, item: object, result: PreparedItem | UnusableItemError) -> PreparedItem | ItemError:
    if isinstance(result, PreparedItem):
        return result
    error = ItemError(index, _item_name(item), str(result))
    error.__cause__ = result
    return error


def _item_name(item: object) -> str:
    """Return the name of an item in an error: the path, the beginning of the text, or the type."""
    if isinstance(item, str | os.PathLike):
        name = str(os.fspath(item))
        return name if len(name) <= _NAME_LENGTH else f"{name[:_NAME_LENGTH]}..."
    return type(item).__name__
