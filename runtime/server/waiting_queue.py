"""Keep the items that wait, and choose batches of them: the item whose turn it is, and those nearest to it in length.

Items take turns in the order of their arrival. An item of a large request counts as one that arrived later: after some
times as much work as the items before it in the request are. So a short request does not wait for all of a large one.
The turn of an item never changes, so that none starves.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol

import numpy as np

from runtime.array_types import Float32Array
from runtime.inference.batching import BatchLimit
from runtime.inference.tower import group_key, row_cost

_LARGE_REQUESTS = (
    4  # that may wait at once without a short request behind them; each has its share of the work at least
)
_TURN, _NUMBERS = attrgetter("turn"), itertools.count()


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
    """One row of a job. The queue gives it a ``turn``: the item with the lowest one is next."""

    __slots__ = ("cost", "group", "index", "job", "row", "runner", "since", "turn")
    turn: tuple[bool, float, int]

    def __init__(self, job: Job, index: int, runner: BatchRunner, row: Any, since: float) -> None:
        """Make the item at ``index`` of ``job``."""
        self.job, self.index, self.runner, self.row, self.since = job, index, runner, row, since
        self.cost = row_cost(row)
        self.group = (runner, group_key(row))


class WaitingQueue:
    """All items that wait. It has no lock: the dispatcher has one."""

    def __init__(self) -> None:
        """Make an empty queue."""
        self._all: list[WaitingItem] = []  # by their turns
        self._groups: dict[tuple[BatchRunner, tuple[int, ...]], _Group] = {}
        self._done = 0.0  # work that was taken until now, in tokens

    def __len__(self) -> int:
        return len(self._all)

    @property
    def tokens(self) -> float:
        """The tokens that wait, with images and points as tokens that take as long."""
        return sum(group.cost * runner.tokens_per_cost for (runner, _), group in self._groups.items())

    @property
    def first(self) -> WaitingItem:
        """The item whose turn it is."""
        return self._all[0]

    @property
    def longest_since(self) -> float:
        """The time since which the item waits that has waited longest."""
        return min(item.since for item in self._all)

    def is_full_batch(self) -> bool:
        """Return whether the group of the first item fills a batch."""
        group, limit = self._groups[self.first.group], self.first.runner.limit()
        has_cost = limit.budget is not None and group.cost >= limit.budget
        return has_cost or (limit.items is not None and group.count >= limit.items)

    def add(self, items: Iterable[WaitingItem]) -> None:
        """Add the items of a job at their turns."""
        due = self._done
        for item in items:
            item.turn = (not item.job.urgent, due, next(_NUMBERS))
            due += _LARGE_REQUESTS * item.cost * item.runner.tokens_per_cost
            insort(self._all, item, key=_TURN)
            self._groups.setdefault(item.group, _Group()).add(item)

    def remove(self, items: Iterable[WaitingItem]) -> None:
        """Remove those of ``items`` that still wait."""
        for item in items:
            at = bisect_left(self._all, item.turn, key=_TURN)
            if at < len(self._all) and self._all[at] is item:
                del self._all[at]
                group = self._groups[item.group]
                group.remove(item)
                if not group.by_cost:
                    del self._groups[item.group]

    def take(self, idle: int) -> list[WaitingItem]:
        """Remove and return the next batch.

        ``idle`` threads wait for work, this one included. A batch takes at most its share of the tokens, so that the
        others have some, too. Of the batches that begin with the first item and those nearest to it, the one with the
        least work per token is taken: one batch more costs as much as the padding that a batch may have.
        """
        first = self.first
        group, limit = self._groups[first.group], first.runner.limit()
        share = -(-group.cost // idle)
        nearest, longest, total = [first], first.cost, first.cost
        overhead = limit.padding or 0
        size, least = 1, (overhead + longest) / total
        for item in group.nearest(first):
            nearest.append(item)
            longest, total, count = max(longest, item.cost), total + item.cost, len(nearest)
            if count * longest > share or count > limit.bound(longest):
                break
            work = (overhead + count * longest) / total
            if work <= least and limit.allows_size(count):
                size, least = count, work
        batch = nearest[:size]
        self.remove(batch)
        self._done += sum(item.cost for item in batch) * first.runner.tokens_per_cost
        return batch


class _Group:
    """Items that may share a batch, by their cost: a number of tokens or points, or 1 for an image."""

    def __init__(self) -> None:
        self.by_cost: dict[int, list[WaitingItem]] = {}  # by their turns
        self.cost = self.count = 0

    def add(self, item: WaitingItem) -> None:
        insort(self.by_cost.setdefault(item.cost, []), item, key=_TURN)
        self.cost += item.cost
        self.count += 1

    def remove(self, item: WaitingItem) -> None:
        same = self.by_cost[item.cost]
        del same[bisect_left(same, item.turn, key=_TURN)]
        self.cost -= item.cost
        self.count -= 1
        if not same:
            del self.by_cost[item.cost]

    def nearest(self, first: WaitingItem) -> Iterable[WaitingItem]:
        """Yield the other items: those nearest in cost first, and of one cost the lowest turn first."""
        for cost in sorted(self.by_cost, key=lambda cost: (abs(cost - first.cost), cost)):
            for item in self.by_cost[cost]:
                if item is not first:
                    yield item
