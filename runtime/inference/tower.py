"""Load one tower of an artifact: preprocessing and graph, from items to vectors, one batch at a time."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from runtime.array_types import Array, Float32Array
from runtime.artifact.manifest import Preprocessing, Tower, TowerName
from runtime.errors import NonFiniteError, OutOfMemoryError, UsageError
from runtime.inference import memory
from runtime.inference.batching import BatchLimit, plan_batches
from runtime.inference.memory import MemoryLimit, estimate_memory
from runtime.preprocess.item import UnusableItemError, prepare_each
from runtime.session.cancellation import CancellationToken
from runtime.session.provider_options import CpuOptions
from runtime.session.session import Session, SessionOptions

if TYPE_CHECKING:
    from runtime.preprocess.text import TextPreprocessor, Tokens

_LOG = logging.getLogger("runtime")
Row: TypeAlias = "Array | Tokens"
_LEAST_BUDGET = 4  # times what one batch more costs
_OUTSIZED = 4  # times the usual budget: giving memory back and taking it again costs time
_TOO_LONG = (
    "it has more tokens than the model takes%s; shorten it, or let it be cut: with truncate='count' in Python, "
    "with --truncate count in a command or at the start of the server"
)


@dataclass(frozen=True, kw_only=True)
class BatchSizes:
    """Numbers of items that go through a tower together. A GPU needs larger numbers than a CPU to be busy.

    Attributes:
        window: Number of items in flight. Batches group items of similar length within a window.
        chunk: Number of items that one thread prepares at a time.
        budget: Maximum cost of a batch: tokens for texts, points for meshes, 1 per image.
        padding: Maximum padding behind the shorter texts of a batch, in tokens; ``None``: no such bound.
    """

    window: int
    chunk: int
    budget: int
    padding: int | None = None

    def for_batch_size(self, batch_size: int | None, preprocessing: Preprocessing) -> BatchSizes:
        """Return sizes for batches of ``batch_size`` images or meshes.

        Texts keep their budget of tokens: their lengths differ too much for a fixed number of texts.
        """
        # For 120 docstrings of 3 to 256 tokens by all-MiniLM-L6-v2, a fixed 32 took 1.8 times the CPU time.
        if batch_size is None or preprocessing.kind == "text":
            return self
        cost = preprocessing.num_points if preprocessing.kind == "mesh" else 1
        return replace(self, window=max(self.window, 2 * batch_size), budget=cost * batch_size)


def towers_of_call(items: object, towers: Collection[TowerName]) -> Collection[TowerName]:
    """Return those of ``towers`` that a call may use: for a sequence of strings, only that of texts."""
    are_texts = isinstance(items, Sequence) and all(isinstance(item, str) for item in items)
    return [name for name in towers if name == "text"] if are_texts and "text" in towers else towers


def sizes_of_call(sizes: Iterable[BatchSizes], batch_size: int | None, lanes: int = 2) -> BatchSizes:
    """Return the sizes of a call: those of the tower with the smallest window, which has a batch for each lane."""
    smallest = min(sizes, key=lambda each: each.window)
    return replace(smallest, window=max(smallest.window, max(2, lanes) * (batch_size or 0)))


# One batch more costs about as much time as so many tokens of padding, so more padding than this loses time. For a CPU,
# this was measured with MiniLM and BERT, fp32 and int8: 0 to 32 tokens were best for calls of 8 to 256 texts. Without a
# bound, 8 mixed texts took twice as long. For a GPU, where the number is 1 to 2 ms, it is assumed.
DEFAULT_BATCH_SIZES: Mapping[tuple[TowerName, str], BatchSizes] = {
    ("text", "cpu"): BatchSizes(window=1024, chunk=64, budget=1024, padding=16),
    ("text", "cuda"): BatchSizes(window=4096, chunk=64, budget=65536, padding=4096),
    ("image", "cpu"): BatchSizes(window=32, chunk=1, budget=8),
    ("image", "cuda"): BatchSizes(window=128, chunk=1, budget=64),
    ("mesh", "cpu"): BatchSizes(window=32, chunk=1, budget=16384),
    ("mesh", "cuda"): BatchSizes(window=128, chunk=1, budget=131072),
}


def tokens_per_cost(kind: TowerName) -> float:
    """Return how many tokens of a text take about as long as one unit of cost: one image, or one point.

    It is the ratio of the default budgets on a CPU, so neither tuning nor the device changes how a server counts items.
    """
    return DEFAULT_BATCH_SIZES["text", "cpu"].budget / DEFAULT_BATCH_SIZES[kind, "cpu"].budget


class Preprocessor(Protocol):
    """A preprocessor of one kind of item."""

    def prepare_all(self, items: Sequence[Any]) -> Sequence[Row | UnusableItemError]:
        """Return one row of the graph's input for each item, or the reason why the item is unusable."""

    def collate(self, rows: Sequence[Any]) -> dict[str, Array]:
        """Return the graph's inputs by name, for the rows of one batch; texts are padded."""


class LoadedTower:
    """The preprocessing and the graph of one kind of item.

    Attributes:
        session: The session of the graph.
        batch_sizes: Numbers of items that go through together. The budget shrinks when the memory does not suffice.
        largest_cost: Largest cost of a batch, whatever its ``batch_size``, after the memory did not suffice; ``None``
            before.
    """

    def __init__(self, folder: Path, tower: Tower, options: SessionOptions) -> None:
        """Load ``tower`` from the artifact in ``folder``; see :class:`runtime.session.session.Session`."""
        self.session = Session(folder, tower, options)
        self._preprocessor = build_preprocessor(tower.preprocessing, folder, self.session.provider.sequence_multiple)
        defaults = DEFAULT_BATCH_SIZES[tower.preprocessing.kind, self.session.provider.device]
        self.batch_sizes = defaults.for_batch_size(options.batch_size, tower.preprocessing)
        self.largest_cost: int | None = None
        chosen = self.session.provider_options
        limit = chosen.memory_limit_bytes if isinstance(chosen, CpuOptions) else None
        self._memory = None if limit is None else MemoryLimit(limit, estimate_memory(folder, tower))

    def prepare(
        self, items: Sequence[Any], *, truncate: bool = True, prompt: str | None = None
    ) -> list[Row | UnusableItemError]:
        """Return each item's row of the graph's input, or the reason why it is unusable.

        If ``truncate`` is false, texts that are too long are unusable. ``prompt`` is put before each text; ``None`` is
        the default prompt of the artifact.

        Raises:
            UsageError: The prompt is unusable, or the items are not texts.
        """
        rows = [self._refuse_too_large(row) for row in self._prepare_all(items, prompt)]
        return rows if truncate else [_refuse_truncated(row) for row in rows]

    def prepare_ids(self, texts: Sequence[Sequence[int]]) -> list[Row | UnusableItemError]:
        """Return the row of each text that comes as token ids, special ones included, or why it is unusable.

        Raises:
            UsageError: The tower embeds other items.
        """
        return [self._refuse_too_large(row) for row in prepare_each(self.text_preprocessor.from_ids, texts)]

    def _prepare_all(self, items: Sequence[Any], prompt: str | None) -> Sequence[Row | UnusableItemError]:
        if prompt is None:
            return self._preprocessor.prepare_all(items)
        return self.text_preprocessor.prepare_all(items, prompt)

    @property
    def text_preprocessor(self) -> TextPreprocessor:
        """The preprocessor of texts.

        Raises:
            UsageError: The tower embeds other items.
        """
        from runtime.preprocess.text import TextPreprocessor

        if not isinstance(self._preprocessor, TextPreprocessor):
            raise UsageError("a prompt is for texts; leave it out")
        return self._preprocessor

    def _refuse_too_large(self, row: Row | UnusableItemError) -> Row | UnusableItemError:
        if self._memory is None or isinstance(row, UnusableItemError):
            return row
        obstacle = self._memory.find_obstacle(row_cost(row))
        return UnusableItemError(obstacle) if obstacle else row

    def collate(self, rows: Sequence[Any]) -> dict[str, Array]:
        """Return the graph's inputs by name, for rows of :meth:`prepare` in one batch; texts are padded."""
        return self._preprocessor.collate(rows)

    def plan_batches(
        self, rows: Sequence[Row], batch_size: int | None = None, *, share: float = 1.0
    ) -> list[list[int]]:
        """Return batches of at most ``batch_size`` rows, by default within the budget; see :func:`plan_row_batches`.

        ``share``: how much of the budget to use, so that there is a batch for each lane. After a lack of memory, no
        batch costs more than the largest one that fitted.
        """
        if len(rows) == 1:
            return [[0]]  # planning takes about 1% of the time of a short text
        provider, padding = self.session.provider, self.batch_sizes.padding
        budget = max(math.ceil(share * self.batch_sizes.budget), _LEAST_BUDGET * (padding or 0))
        limit = BatchLimit(
            items=min(filter(None, (batch_size, provider.max_items)), default=None),
            budget=min(budget, self.batch_sizes.budget) if batch_size is None else self.largest_cost,
            multiple=provider.sequence_multiple,
            padding=padding if batch_size is None else None,
            powers_of_two=self.session.needs_few_shapes,
        )
        return plan_row_batches(rows, limit)

    def relative_cost(self, rows: Sequence[Row]) -> float:
        """Return the cost of a batch of ``rows``, as a share of the budget, so that towers can be compared."""
        return (_total_cost(rows) + (self.batch_sizes.padding or 0)) / self.batch_sizes.budget

    def embed(
        self, rows: Sequence[Any], cancellation: CancellationToken | None = None, *, side_by_side: bool = False
    ) -> Float32Array:
        """Run the graph on one batch: rows of :meth:`prepare` that have the same :func:`group_key`.

        ``side_by_side``: whether other batches run at the same time; see :meth:`runtime.session.session.Session.run`.

        Returns:
            ``[rows, output_dim]`` float32.

        Raises:
            InferenceError: The graph cannot be run.
            NonFiniteError: The graph returned NaN or infinity.
        """
        run = partial(self._embed, cancellation=cancellation, side_by_side=side_by_side)
        if self._memory is None:
            return run(rows)
        with memory.one_batch_at_a_time:
            parts = self._memory.split([*map(row_cost, rows)])
            return np.concatenate([run(rows[part]) for part in parts])

    def _embed(
        self, rows: Sequence[Any], *, cancellation: CancellationToken | None, side_by_side: bool, outsized: bool = False
    ) -> Float32Array:
        """Embed a batch, in halves if the memory does not suffice; then later batches are planned smaller, too."""
        # The arena would keep what one large batch took until the end of the process.
        outsized = outsized or _total_cost(rows) > _OUTSIZED * self.batch_sizes.budget
        try:
            return self._run(rows, cancellation, outsized, side_by_side)
        except OutOfMemoryError:
            if len(rows) == 1:
                raise
        middle = (len(rows) + 1) // 2
        halves = rows[:middle], rows[middle:]
        cost = _total_cost(halves[0])
        self.largest_cost = min(cost, self.largest_cost or cost)
        self.batch_sizes = replace(self.batch_sizes, budget=min(cost, self.batch_sizes.budget))
        _LOG.warning("too little memory for a batch of %s: it is halved, and later batches are smaller", len(rows))
        embed = partial(self._embed, cancellation=cancellation, side_by_side=side_by_side, outsized=True)
        return np.concatenate([embed(half) for half in halves])

    def _run(
        self, rows: Sequence[Any], cancellation: CancellationToken | None, outsized: bool, side_by_side: bool
    ) -> Float32Array:
        feeds = self.collate(rows)
        vectors = self.session.run(feeds, cancellation, outsized=outsized, side_by_side=side_by_side)
        if not np.isfinite(vectors).all():
            raise NonFiniteError(
                f"{self.session.choice.graph} returned NaN or infinity on the provider {self.session.provider.name}; "
                "check the artifact with `python -m runtime verify`, or choose another provider"
            )
        return vectors


def is_truncated(row: Row | UnusableItemError) -> bool:
    """Return whether ``row`` is a text that was cut."""
    return bool(getattr(row, "truncated", False))


def _refuse_truncated(row: Row | UnusableItemError) -> Row | UnusableItemError:
    if not is_truncated(row):
        return row
    return UnusableItemError(_TOO_LONG % (", its prompt included" * bool(getattr(row, "prompt_length", 0))))


def group_key(row: Row) -> tuple[int, ...]:
    """Return the key that all rows of a batch share: the shape of an array. Texts share one key; they are padded."""
    return row.shape if isinstance(row, np.ndarray) else ()


def row_cost(row: Row) -> int:
    """Return the share of a batch's budget that ``row`` takes: its columns or points, or 1 for an image."""
    if not isinstance(row, np.ndarray):
        return row.width
    return len(row) if row.ndim == 2 else 1


def _total_cost(rows: Sequence[Row]) -> int:
    return len(rows) * max(map(row_cost, rows))


def plan_row_batches(rows: Sequence[Row], limit: BatchLimit, cost: Callable[[Row], int] = row_cost) -> list[list[int]]:
    """Return the positions in ``rows`` as batches of rows with one shape and similar cost."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(group_key(row), []).append(position)
    return [
        [positions[at] for at in batch]
        for positions in groups.values()
        for batch in plan_batches([cost(rows[position]) for position in positions], limit)
    ]


def build_preprocessor(preprocessing: Preprocessing, folder: Path, sequence_multiple: int) -> Preprocessor:
    """Build the preprocessor for one kind of item. Only the packages of this kind are imported.

    The artifact's ``folder`` has the tokenizer. Texts are padded to a multiple of ``sequence_multiple`` tokens.
    """
    if preprocessing.kind == "image":
        from runtime.preprocess.image import ImagePreprocessor

        return ImagePreprocessor(preprocessing)
    if preprocessing.kind == "text":
        from runtime.preprocess.text import TextPreprocessor

        return TextPreprocessor(preprocessing, folder, sequence_multiple)
    from runtime.preprocess.point_cloud import PointCloudPreprocessor

    return PointCloudPreprocessor(preprocessing)
