"""Embed items in one process: prepare them in threads while the graph runs, in order and in bounded memory."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from runtime.array_types import Array, Float32Array
from runtime.artifact.manifest import Tower, TowerName
from runtime.background import iterate_in_background, start_in_background
from runtime.errors import ItemError
from runtime.inference.batching import schedule_batches, windows
from runtime.inference.options import EmbedOptions
from runtime.inference.tower import BatchSizes, LoadedTower, Row, is_truncated, sizes_of_call, towers_of_call
from runtime.postprocess import truncate_and_normalize
from runtime.preprocess.image_formats import looks_like_image_path
from runtime.preprocess.item import UnusableItemError, prepare_each
from runtime.session.cancellation import CancellationToken
from runtime.session.provider_options import ProviderOptions
from runtime.session.session import SessionOptions
from runtime.session.variant_selection import GraphChoice

T = TypeVar("T")
OnProgress: TypeAlias = Callable[[int], object]
_NAME_LENGTH = 200
_WINDOWS_AHEAD = 2  # one in inference, one in preparation
_WORTH_DIVIDING = 0.8  # of the time: with two lanes little is saved, and a second session holds the weights once more


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
    concurrent_batches: int
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
            concurrent_batches=first.concurrent_batches,
            towers=tuple(self.towers),
            choices={name: tower.session.choice for name, tower in self.towers.items()},
        )

    def close(self) -> None:
        """Do nothing; garbage collection frees the graphs."""

    def stream(
        self, items: Iterable[Any], options: EmbedOptions, on_progress: OnProgress | None = None
    ) -> Iterator[PartialEmbeddings]:
        """Yield the vectors and errors of ``items``, in order, one window at a time.

        An iterator is read only as far as the windows in flight. As many batches run side by side as the session
        allows. They run in other threads, except for very few items, so that Ctrl-C takes effect at once. Ctrl-C and
        closing the generator cancel the work in progress. ``on_progress`` receives the number of items of each finished
        batch. A prompt must be its text, not its name: see :func:`runtime.inference.prompts.resolve_prompt`.
        """
        towers = {options.tower: self.towers[options.tower]} if options.tower else self.towers
        lanes = self.info.concurrent_batches
        call = _EmbeddingCall(towers, self.output_dim, options, on_progress or (lambda count: None), lanes)
        used = towers_of_call(items, towers)
        sizes = sizes_of_call((towers[name].batch_sizes for name in used), options.batch_size, lanes)
        if isinstance(items, Sequence) and len(items) <= sizes.chunk:  # threads would only add overhead
            if items:
                yield from self._embed_few(items, call)
            return
        yield from self._stream_in_threads(items, sizes, call)

    def _embed_few(self, items: Sequence[Any], call: _EmbeddingCall) -> Iterator[PartialEmbeddings]:
        window = call.plan(0, call.prepare(0, items))
        if call.lanes == 1 or len(window.batches) <= 1:
            for batch in window.batches:
                call.run(window, batch)
            yield call.result(window)
            return
        try:
            yield start_in_background(partial(_run_side_by_side, window, call))()
        finally:
            call.cancellation.cancel()

    def _stream_in_threads(
        self, items: Iterable[Any], sizes: BatchSizes, call: _EmbeddingCall
    ) -> Iterator[PartialEmbeddings]:
        read: SimpleQueue[list[Any] | None] = SimpleQueue()
        parts = iterate_in_background(self._embed_windows(iter(read.get, None), sizes, call))
        unfinished = 0
        try:
            for window in windows(items, sizes.window):
                read.put(window)
                unfinished += 1
                if unfinished > _WINDOWS_AHEAD:
                    yield next(parts)
                    unfinished -= 1
            read.put(None)
            yield from parts
        finally:
            call.cancellation.cancel()
            read.put(None)

    def _embed_windows(
        self, read: Iterable[list[Any]], sizes: BatchSizes, call: _EmbeddingCall
    ) -> Iterator[PartialEmbeddings]:
        """Yield the parts of windows of ``sizes``, ``_WINDOWS_AHEAD`` behind those that are read."""
        pending: deque[Future[tuple[_Window, deque[Future[None]]]]] = deque()
        executors = preparing, planning, running = [
            ThreadPoolExecutor(count, thread_name_prefix=name)
            for name, count in (("prepare", self.info.threads), ("plan", 1), ("run", call.lanes))
        ]

        def plan(
            start: int, chunks: deque[Future[list[PreparedItem | ItemError]]], is_only: bool
        ) -> tuple[_Window, deque[Future[None]]]:
            window = call.plan(start, [item for chunk in _take_results(chunks) for item in chunk])
            return window, call.start(window, running, is_only=is_only)

        try:
            start = 0
            for window in read:
                chunks = deque(
                    preparing.submit(call.prepare, start + at, window[at : at + sizes.chunk])
                    for at in range(0, len(window), sizes.chunk)
                )
                pending.append(planning.submit(plan, start, chunks, not start and len(window) < sizes.window))
                start += len(window)
                if len(pending) > _WINDOWS_AHEAD:
                    yield call.finish(*pending.popleft().result(), running)
            while pending:
                yield call.finish(*pending.popleft().result(), running)
        finally:
            call.cancellation.cancel()
            for executor in executors:
                executor.shutdown(wait=False, cancel_futures=True)


CheckPipeline: TypeAlias = Callable[[Pipeline], object]  # raises an error if the pipeline may not be used


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Items of a window that go through a graph together, by their positions among the usable ones."""

    tower: LoadedTower
    positions: list[int]


@dataclass(kw_only=True)
class _Window:
    """The items of a window, its batches, and the vectors that these fill in."""

    usable: list[tuple[int, PreparedItem]]  # with their indices in the input
    failures: list[ItemError]
    vectors: Float32Array
    batches: list[_Batch]


class _EmbeddingCall:
    """The steps of one call of :meth:`Pipeline.stream`."""

    def __init__(
        self,
        towers: Mapping[TowerName, LoadedTower],
        output_dim: int,
        options: EmbedOptions,
        on_progress: OnProgress,
        lanes: int,
    ) -> None:
        self.cancellation, self.lanes = CancellationToken(), lanes
        self._on_cpu = all(tower.session.provider.device == "cpu" for tower in towers.values())
        self._towers, self._output_dim, self._options, self._on_progress = towers, output_dim, options, on_progress
        self._progress_lock = threading.Lock()

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

    def plan(self, start: int, items: Sequence[PreparedItem | ItemError]) -> _Window:
        """Return the window of ``items`` with its batches; ``start`` is the index of the first item."""
        failures = [item for item in items if isinstance(item, ItemError)]
        if failures and self._options.on_error == "raise":
            first = failures[0]  # not raised itself: the traceback holds it
            raise ItemError(first.index, first.item, first.reason) from first.__cause__
        self._report(len(failures))
        usable = [(index, item) for index, item in enumerate(items, start) if isinstance(item, PreparedItem)]
        vectors = np.empty((len(usable), self._output_dim), dtype=np.float32)
        window = _Window(usable=usable, failures=failures, vectors=vectors, batches=self._batches(usable))
        if len(usable) > 1 and self.lanes > 1 and self._on_cpu and self._options.batch_size is None:
            return self._divide(window)
        return window

    def _divide(self, window: _Window) -> _Window:
        """Return ``window`` with smaller batches, one for each lane, if it then ends much sooner."""
        costs = self._costs(window)
        share = sum(costs) / self.lanes
        if share >= 1:
            return window
        divided = replace(window, batches=self._batches(window.usable, share))
        end, now = (schedule_batches(each, self.lanes).end for each in (self._costs(divided), costs))
        return divided if end < _WORTH_DIVIDING * now else window

    def run(self, window: _Window, batch: _Batch, *, side_by_side: bool = False) -> None:
        """Run a graph on a batch of ``window``, and keep the vectors there."""
        rows = self._rows(window, batch)
        window.vectors[batch.positions] = batch.tower.embed(rows, self.cancellation, side_by_side=side_by_side)
        self._report(len(rows))

    def start(self, window: _Window, running: Executor, *, is_only: bool) -> deque[Future[None]]:
        """Start the batches that run side by side. Of a call's only window, the others run alone in :meth:`finish`.

        On a GPU none runs alone: side by side, one is copied while the other is computed. Nor does any in a stream of
        several windows: it would open a second session, and hold the weights twice.
        """
        some = schedule_batches(self._costs(window), self.lanes).side_by_side
        count = some if is_only and self._on_cpu else len(window.batches)
        run = partial(self.run, side_by_side=self.lanes > 1)
        return deque(running.submit(run, window, batch) for batch in window.batches[:count])

    def finish(self, window: _Window, started: deque[Future[None]], running: Executor) -> PartialEmbeddings:
        """Wait for the batches side by side, run the others alone, and return the vectors."""
        alone = window.batches[len(started) :]
        for _ in _take_results(started):
            pass
        for batch in alone:
            running.submit(self.run, window, batch).result()
        return self.result(window)

    def result(self, window: _Window) -> PartialEmbeddings:
        """Return the vectors of a window in the order of its items; all batches have run."""
        return PartialEmbeddings(
            truncate_and_normalize(window.vectors, self._options.truncate_dim, self._options.normalize),
            np.array([index for index, _ in window.usable], dtype=np.int64),
            window.failures,
            np.array([index for index, item in window.usable if is_truncated(item.row)], dtype=np.int64),
        )

    def _batches(self, usable: Sequence[tuple[int, PreparedItem]], share: float = 1.0) -> list[_Batch]:
        """Return the batches of ``usable`` items, which use a ``share`` of their budgets."""
        batches = []
        for name, tower in self._towers.items():
            positions = [at for at, (_, item) in enumerate(usable) if item.tower == name]
            rows = [usable[at][1].row for at in positions]
            planned = tower.plan_batches(rows, self._options.batch_size, share=share)
            batches += [_Batch(tower=tower, positions=[positions[at] for at in batch]) for batch in planned]
        return batches

    def _costs(self, window: _Window) -> list[float]:
        return [batch.tower.relative_cost(self._rows(window, batch)) for batch in window.batches]

    def _rows(self, window: _Window, batch: _Batch) -> list[Row]:
        return [window.usable[at][1].row for at in batch.positions]

    def _report(self, count: int) -> None:
        with self._progress_lock:
            self._on_progress(count)

    def _choose_tower(self, item: object) -> TowerName:
        if isinstance(item, UnusableItemError):  # the reason why the item was lost on its way to this process
            raise item
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


def _run_side_by_side(window: _Window, call: _EmbeddingCall) -> PartialEmbeddings:
    running = ThreadPoolExecutor(call.lanes, thread_name_prefix="run")
    try:
        return call.finish(window, call.start(window, running, is_only=True), running)
    finally:
        running.shutdown(wait=False, cancel_futures=True)


def _take_results(futures: deque[Future[T]]) -> Iterator[T]:
    """Yield the results of ``futures``, which are taken out: an error holds this frame, and a future its error."""
    while futures:
        yield futures.popleft().result()


def _with_index(index: int, item: object, result: PreparedItem | UnusableItemError) -> PreparedItem | ItemError:
    if isinstance(result, PreparedItem):
        return result
    error = ItemError(index, item_name(item), str(result))
    error.__cause__ = result
    return error


def item_name(item: object) -> str:
    """Return the name of an item in an error: the path, the beginning of the text, or the type."""
    if isinstance(item, str | os.PathLike):
        name = str(os.fspath(item))
        return name if len(name) <= _NAME_LENGTH else f"{name[:_NAME_LENGTH]}..."
    return type(item).__name__
