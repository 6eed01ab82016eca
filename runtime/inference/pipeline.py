"""Items to vectors in one process: preparing in threads, inference beside it, everything in order and bounded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from runtime.artifact.manifest import Tower, TowerName
from runtime.errors import ItemError
from runtime.inference.batching import plan_batches, windows
from runtime.inference.options import EmbedOptions
from runtime.inference.tower import LoadedTower, Portions, Row, Vectors, group_key, is_truncated, row_cost
from runtime.postprocess import truncate_and_normalize
from runtime.preprocess import UnusableItemError, looks_like_image_path
from runtime.session.provider_options import ProviderOptions
from runtime.session.session import CancellationToken, SessionOptions
from runtime.session.variant_selection import GraphChoice

OnProgress: TypeAlias = Callable[[int], object]
Prepared: TypeAlias = "list[PreparedItem | ItemError]"
_NAME_LENGTH = 200
_WINDOWS_AHEAD = 2  # one that is embedded, one that is prepared meanwhile


class PartialEmbeddings(NamedTuple):
    """The vectors of those items that could be embedded, and what became of the others.

    Attributes:
        vectors: ``[len(kept), output_dim]`` float32, unless another type or number of dimensions was asked for.
        kept: ``[len(kept)]`` int64: the index of each row's item in the input.
        failures: One error for each item that was left out.
        truncated: ``[texts]`` int64: the index of each text that was embedded without its end.
    """

    vectors: np.ndarray[Any, Any]
    kept: np.ndarray[Any, np.dtype[np.int64]]
    failures: list[ItemError]
    truncated: np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Active:
    """What embeds, in fact.

    Attributes:
        provider: Name of the execution provider.
        provider_options: Its settings.
        provider_reason: Why it is this one.
        threads: Threads of one run.
        towers: The kinds of item that are embedded.
        choices: The graph that runs for each of them.
    """

    provider: str
    provider_options: ProviderOptions
    provider_reason: str
    threads: int
    towers: tuple[TowerName, ...]
    choices: Mapping[TowerName, GraphChoice]


class PreparedItem(NamedTuple):
    """An item on its way.

    Attributes:
        tower: The one that embeds it.
        row: Its row of the graph's input.
    """

    tower: TowerName
    row: Row


class Pipeline:
    """The loaded towers of an artifact, and the way of items through them.

    Attributes:
        towers: Each by the kind of item that it embeds.
        output_dim: Length of a vector.
        active: What runs them.
    """

    def __init__(
        self, folder: Path, towers: Mapping[TowerName, Tower], output_dim: int, options: SessionOptions
    ) -> None:
        """Loads ``towers`` from ``folder``; what ``auto`` chose for the first is asked of the others."""
        self.towers: dict[TowerName, LoadedTower] = {}
        self.output_dim = output_dim
        for name, record in towers.items():
            self.towers[name] = LoadedTower(folder, record, options)
            session = self.towers[name].session
            options = replace(options, provider=session.provider.name, provider_options=session.provider_options)
        first = next(iter(self.towers.values())).session
        self.active = Active(
            provider=first.provider.name,
            provider_options=first.provider_options,
            provider_reason=first.provider_reason,
            threads=first.threads,
            towers=tuple(self.towers),
            choices={name: tower.session.choice for name, tower in self.towers.items()},
        )

    def close(self) -> None:
        """Does nothing: the graphs go when nothing refers to them."""

    def stream(
        self, items: Iterable[Any], options: EmbedOptions, on_progress: OnProgress | None = None
    ) -> Iterator[PartialEmbeddings]:
        """Yields what becomes of ``items``, in order, a window at a time.

        Of an iterator, no more is read than the windows that are in flight. The caller's thread never runs the graph
        (but for very few items), so that Ctrl-C reaches it at once; what is under way is then ended, and so it is when
        the generator is closed.

        Args:
            items: As for :meth:`runtime.Embedder.embed`.
            options: The rest.
            on_progress: Is told of each batch's number of items when it is done, from another thread.
        """
        flight = _Flight(self, options, on_progress or (lambda count: None))
        portions = self._portions(options)
        if isinstance(items, Sequence) and len(items) <= portions.chunk:  # threads would only take time
            if items:
                yield flight.embed(0, [_Done(flight.prepare(0, items))])
            return
        yield from self._stream_in_threads(items, portions, options, flight)

    def _stream_in_threads(
        self, items: Iterable[Any], portions: Portions, options: EmbedOptions, flight: _Flight
    ) -> Iterator[PartialEmbeddings]:
        size = max(portions.window, 2 * (options.batch_size or 0))
        pending: deque[Future[PartialEmbeddings]] = deque()
        preparing = ThreadPoolExecutor(self.active.threads, thread_name_prefix="prepare")
        inferring = ThreadPoolExecutor(1, thread_name_prefix="infer")
        try:
            start = 0
            for window in windows(items, size):
                prepared = [
                    preparing.submit(flight.prepare, start + at, window[at : at + portions.chunk])
                    for at in range(0, len(window), portions.chunk)
                ]
                pending.append(inferring.submit(flight.embed, start, prepared))
                start += len(window)
                if len(pending) > _WINDOWS_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            flight.stop.cancel()
            preparing.shutdown(wait=False, cancel_futures=True)
            inferring.shutdown(wait=False, cancel_futures=True)

    def _portions(self, options: EmbedOptions) -> Portions:
        """Returns those of the one tower that is sure to be used, or of the most demanding one."""
        towers = [self.towers[options.tower]] if options.tower else list(self.towers.values())
        return min((tower.portions for tower in towers), key=lambda portions: portions.window)


class _Done(NamedTuple):
    """A future whose result is there."""

    prepared: Prepared

    def result(self) -> Prepared:
        return self.prepared


class _Flight:
    """One call's way through the pipeline."""

    def __init__(self, pipeline: Pipeline, options: EmbedOptions, on_progress: OnProgress) -> None:
        self.stop = CancellationToken()
        self._pipeline = pipeline
        self._options = options
        self._on_progress = on_progress

    def prepare(self, start: int, items: Sequence[Any]) -> Prepared:
        """Returns each item's row, or its error; ``start`` is the index of the first."""
        choices = [self._choose_tower(item) for item in items]
        rows: dict[int, Row | UnusableItemError] = {}
        for name, tower in self._pipeline.towers.items():
            positions = [position for position, choice in enumerate(choices) if choice == name]
            chosen = tower.prepare(
                [items[position] for position in positions], truncate=self._options.truncate == "count"
            )
            rows |= zip(positions, chosen, strict=True)
        return [
            _settle(start + position, items[position], choice, rows.get(position))
            for position, choice in enumerate(choices)
        ]

    def embed(self, start: int, prepared: Sequence[Future[Prepared] | _Done]) -> PartialEmbeddings:
        """Runs together what can go together, and returns the vectors in the order of the items."""
        items = [item for future in prepared for item in future.result()]
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

    def _run(self, items: Sequence[PreparedItem]) -> Vectors:
        groups: dict[tuple[TowerName, tuple[int, ...]], list[int]] = {}
        for position, item in enumerate(items):
            groups.setdefault((item.tower, group_key(item.row)), []).append(position)
        vectors = np.empty((len(items), self._pipeline.output_dim), dtype=np.float32)
        for (name, _), positions in groups.items():
            tower = self._pipeline.towers[name]
            costs = [row_cost(items[position].row) for position in positions]
            for batch in plan_batches(costs, tower.limit(self._options.batch_size)):
                chosen = [positions[at] for at in batch]
                vectors[chosen] = tower.embed([items[position].row for position in chosen], self.stop)
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
                "as a string it is a text, and it ends as an image's path does: give a pathlib.Path, or say which "
                "it is by embed_image or embed_text"
            )
        return "text"


def _settle(
    index: int, item: object, choice: TowerName | UnusableItemError, row: Row | UnusableItemError | None
) -> PreparedItem | ItemError:
    if not isinstance(choice, UnusableItemError) and row is not None and not isinstance(row, UnusableItemError):
        return PreparedItem(choice, row)
    reason = choice if isinstance(choice, UnusableItemError) else row
    error = ItemError(index, _name(item), str(reason))
    error.__cause__ = reason if isinstance(reason, UnusableItemError) else None
    return error


def _name(item: object) -> str:
    """Returns what names an item in an error: a path as it is, a text by its beginning, else the type."""
    if isinstance(item, str | os.PathLike):
        name = os.fspath(item)
        return str(name) if len(str(name)) <= _NAME_LENGTH else f"{str(name)[:_NAME_LENGTH]}..."
    return type(item).__name__
