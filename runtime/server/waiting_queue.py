"""Keep the items that wait, and choose batches of them: the oldest item, and those nearest to it in length."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from runtime.array_types import Float32Array
from runtime.inference.batching import BatchLimit
from runtime.inference.tower import group_key, row_cost


class EmbedRows(Protocol):
    """A function that runs a graph. Several threads call it at once."""

    def __call__(self, rows: Sequence[Any], *, side_by_side: bool) -> Float32Array:
        """Return the vectors of rows of one shape, ``[rows, dim]``.

        ``side_by_side``: whether other batches run at the same time, so that this one takes its share of the threads.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchRunner:
    """A graph, as the dispatcher sees it.

    Attributes:
        embed: Runs the graph.
        limit: Returns the bounds of a batch, which shrink after too little memory.
        dim: Length of a vector.
        tokens_per_cost: Tokens of a text that take about as long as one unit of cost: one image, or one point.
    """

    embed: EmbedRows
    limit: Callable[[], BatchLimit]
    dim: int
    tokens_per_cost: float = 1.0


class Job:
    """The rows of one request that go through one graph.

    Attributes:
        future: Gets ``[rows, dim]`` float32 in the order of the rows, or the first error.
        urgent: Whether its items are taken before all that wait, and wait for no others to fill their batch.
    """

    def __init__(self, runner: BatchRunner, rows: Sequence[Any], since: float, *, urgent: bool = False) -> None:
        """Make a job of ``rows`` that begins to wait at the time ``since``, in seconds."""
        self.urgent = urgent
        self.future: Future[Float32Array] = Future()
        self.future.set_running_or_notify_cancel()  # so that only the dispatcher ends it
        self.vectors: Float32Array = np.empty((len(rows), runner.dim), dtype=np.float32)
        self.left = len(rows)
        self.items = [WaitingItem(self, index, runner, row, since) for index, row in enumerate(rows)]


class WaitingItem:
    """One row of a job."""

    __slots__ = ("cost", "group", "index", "job", "row", "runner", "since")

    def __init__(self, job: Job, index: int, runner: BatchRunner, row: Any, since: float) -> None:
        """Make the item at ``index`` of ``job``."""
        self.job, self.index, self.runner, self.row, self.since = job, index, runner, row, since
        self.cost = row_cost(row)
        self.group = (runner, group_key(row))


class WaitingQueue:
    """All items that wait. It has no lock: the dispatcher has one."""

    def __init__(self) -> None:
        """Make an empty queue."""
        self._all: OrderedDict[WaitingItem, None] = OrderedDict()  # urgent ones first, then the oldest
        self._groups: dict[tuple[BatchRunner, tuple[int, ...]], _Group] = {}

    def __len__(self) -> int:
        return len(self._all)

    @property
    def tokens(self) -> float:
        """The tokens that wait, with images and points as tokens that take as long."""
        return sum(group.cost * runner.tokens_per_cost for (runner, _), group in self._groups.items())

    @property
    def oldest(self) -> WaitingItem:
        """The item that is next: an urgent one, or else the one that has waited longest."""
        return next(iter(self._all))

    def is_full_batch(self) -> bool:
        """Return whether the group of the oldest item fills a batch."""
        oldest = self.oldest
        group, limit = self._groups[oldest.group], oldest.runner.limit()
        has_cost = limit.budget is not None and group.cost >= limit.budget
        return has_cost or (limit.items is not None and group.count >= limit.items)

    def add(self, items: Iterable[WaitingItem]) -> None:
        """Add items behind those that wait; urgent ones before them."""
        for item in items:
            self._all[item] = None
            if item.job.urgent:
                self._all.move_to_end(item, last=False)
            self._groups.setdefault(item.group, _Group()).add(item)

    def remove(self, items: Iterable[WaitingItem]) -> None:
        """Remove those of ``items`` that still wait."""
        for item in items:
            if item in self._all:
                del self._all[item]
                group = self._groups[item.group]
                group.remove(item)
                if not group.by_cost:
                    del self._groups[item.group]

    def take(self, idle: int) -> list[WaitingItem]:
        """Remove and return the next batch.

        ``idle`` threads wait for work, this one included. A batch takes at most its share of the tokens, so that the
        others have some, too. Of the batches that begin with the oldest item and those nearest to it, the one with the
        least work per token is taken: one batch more costs as much as the padding that a batch may have.
        """
        oldest = self.oldest
        group, limit = self._groups[oldest.group], oldest.runner.limit()
        share = -(-group.cost // idle)
        nearest, longest, total = [oldest], oldest.cost, oldest.cost
        overhead = limit.padding or 0
        size, least = 1, (overhead + longest) / total
        for item in group.nearest(oldest):
            nearest.append(item)
            longest, total, count = max(longest, item.cost), total + item.cost, len(nearest)
            if count * longest > share or count > limit.bound(longest):
                break
            work = (overhead + count * longest) / total
            if work <= least and limit.allows_size(count):
                size, least = count, work
        batch = nearest[:size]
        self.remove(batch)
        return batch


class _Group:
    """Items that may share a batch, by their cost: a number of tokens or points, or 1 for an image."""

    def __init__(self) -> None:
        self.by_cost: dict[int, OrderedDict[WaitingItem, None]] = {}
        self.cost = self.count = 0

    def add(self, item: WaitingItem) -> None:
        self.by_cost.setdefault(item.cost, OrderedDict())[item] = None
        self.cost += item.cost
        self.count += 1

    def remove(self, item: WaitingItem) -> None:
        same = self.by_cost[item.cost]
        del same[item]
        self.cost -= item.cost
        self.count -= 1
        if not same:
            del self.by_cost[item.cost]

    def nearest(self, oldest: WaitingItem) -> Iterable[WaitingItem]:
        """Yield the other items: those nearest in cost first, and of one cost the oldest first."""
        for cost in sorted(self.by_cost, key=lambda cost: (abs(cost - oldest.cost), cost)):
            for item in self.by_cost[cost]:
                if item is not oldest:
                    yield item
