"""Which items go through a graph together: windows of a stream, and batches of like length within a budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from runtime.preprocess.padding import round_up

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BatchLimit:
    """How much goes through a graph at once.

    Attributes:
        items: Items of a batch at most; ``None`` for no such bound.
        budget: Items times the length of the longest at most, counting what fills the shorter ones; ``None`` for no
            such bound. A longer item goes alone.
        multiple: Lengths count as rounded up to this.
    """

    items: int | None = None
    budget: int | None = None
    multiple: int = 1

    def admits(self, count: int, longest: int) -> bool:
        """Tells whether ``count`` items of which the longest has that length may go together."""
        if self.items is not None and count > self.items:
            return False
        return self.budget is None or count == 1 or count * round_up(longest, self.multiple) <= self.budget


def plan_batches(lengths: Sequence[int], limit: BatchLimit) -> list[list[int]]:
    """Returns the positions in ``lengths`` as batches of like length, the longest first; each position once.

    The longest go first so that memory is at its highest at the beginning, where its lack is noticed.
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda position: -lengths[position]):
        if batches and limit.admits(len(batches[-1]) + 1, lengths[batches[-1][0]]):
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


def windows(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yields ``items`` in order as lists of ``size``, the last one shorter; reads no further than what it yields."""
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window


def power_of_two(number: int) -> int:
    """Returns the smallest power of two that is at least ``number``."""
    return 1 << max(0, number - 1).bit_length()
