"""Group items into windows of a stream, and into batches of similar length within a budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapreplace
from itertools import accumulate, islice, takewhile
from typing import NamedTuple, TypeVar

from runtime.preprocess.padding import round_up

T = TypeVar("T")
# Of a batch, by Amdahl's law: 0.06 to 0.12 for MiniLM, BERT and EfficientNet with two threads, assumed for more.
_SERIAL_SHARE = 0.12


@dataclass(frozen=True, kw_only=True)
class BatchLimit:
    """Upper bounds of a batch.

    Attributes:
        items: Maximum number of items; ``None``: no such bound.
        budget: Maximum of items times the longest length, padding included; ``None``: no such bound. An item that
            exceeds the budget gets a batch of its own.
        multiple: Lengths are rounded up to a multiple of this number.
        padding: A batch ends where the padding behind its shorter items would exceed this number: as much as one batch
            more costs. What rounding adds does not count. ``None``: no such bound.
        powers_of_two: Whether the number of items is always a power of two, so that few shapes occur.
    """

    items: int | None = None
    budget: int | None = None
    multiple: int = 1
    padding: int | None = None
    powers_of_two: bool = False

    def bound(self, longest: int) -> float:
        """Return the largest number of items in a batch whose maximum length is ``longest``; infinity: no bound."""
        bound = math.inf if self.items is None else self.items
        if self.budget is not None:
            bound = min(bound, max(1, self.budget // max(1, round_up(longest, self.multiple))))
        return bound

    def allows_size(self, count: int) -> bool:
        """Return whether a batch may have this number of items, apart from the bounds."""
        return not self.powers_of_two or count.bit_count() == 1

    def largest(self, longest: int, count: int) -> int:
        """Return the size of the largest batch of at most ``count`` items whose maximum length is ``longest``."""
        count = int(min(count, self.bound(longest)))
        # Rounded up, a batch would exceed the budget that it was planned for.
        return 1 << (count.bit_length() - 1) if self.powers_of_two else count

    def count_similar(self, lengths: Sequence[int], start: int) -> int:
        """Return how many of the falling ``lengths`` from ``start`` on need no more padding than a batch may have."""
        if self.padding is None:
            return len(lengths) - start
        rounded = [round_up(length, self.multiple) for length in lengths[start:]]
        padding = accumulate(rounded[0] - length for length in rounded)
        return sum(1 for _ in takewhile(self.padding.__ge__, padding))


def plan_batches(lengths: Sequence[int], limit: BatchLimit) -> list[list[int]]:
    """Return the positions in ``lengths`` as batches of similar length, the longest first."""
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    falling = [lengths[position] for position in order]
    batches: list[list[int]] = []  # the longest first, so that a lack of memory shows at the start
    start = 0
    while start < len(order):
        stop = start + limit.largest(falling[start], limit.count_similar(falling, start))
        batches.append(order[start:stop])
        start = stop
    return batches


class Schedule(NamedTuple):
    """How batches run: the first ones side by side on lanes, then the others one by one, with all threads each.

    Attributes:
        side_by_side: Number of the batches that run side by side.
        end: When all batches have run, in the unit of their costs: the time that a lane takes.
    """

    side_by_side: int
    end: float


def schedule_batches(costs: Sequence[float], lanes: int) -> Schedule:
    """Return the schedule that ends soonest.

    Few batches of unequal ``costs`` leave lanes idle: beside a batch of eight long texts, one of eight short ones ends
    at once.
    """
    alone = _SERIAL_SHARE + (1 - _SERIAL_SHARE) / lanes  # the time of a batch with all threads, as a share of a lane's
    ends, rest = [0.0] * lanes, sum(costs)
    best = Schedule(0, rest * alone)
    for count, cost in enumerate(costs, 1):
        heapreplace(ends, ends[0] + cost)
        rest -= cost
        if (end := max(ends) + rest * alone) <= best.end:
            best = Schedule(count, end)
    return best


def windows(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield consecutive lists of ``size`` items, the last one shorter. Nothing is read ahead."""
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window
