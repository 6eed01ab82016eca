"""Group items into windows of a stream, and into batches of similar length within a budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from runtime.preprocess.padding import round_up

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BatchLimit:
    """Upper bounds of a batch.

    Attributes:
        items: Maximum number of items; ``None``: no such bound.
        budget: Maximum of items times the longest length, padding included; ``None``: no such bound. An item that
            exceeds the budget gets a batch of its own.
        multiple: Lengths are rounded up to a multiple of this number.
    """

    items: int | None = None
    budget: int | None = None
    multiple: int = 1

    def admits(self, count: int, longest: int) -> bool:
        """Return whether a batch may hold ``count`` items whose maximum length is ``longest``."""
        if self.items is not None and count > self.items:
            return False
        return self.budget is None or count == 1 or count * round_up(longest, self.multiple) <= self.budget


def plan_batches(lengths: Sequence[int], limit: BatchLimit) -> list[list[int]]:
    """Return the positions in ``lengths`` as batches of similar length, the longest first."""
    batches: list[list[int]] = []  # the longest first, so that a lack of memory shows at the start
    for position in sorted(range(len(lengths)), key=lambda position: -lengths[position]):
        if batches and limit.admits(len(batches[-1]) + 1, lengths[batches[-1][0]]):
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


def count_alone(batches: int, lanes: int) -> int:
    """Return how many of the last of ``batches`` run one after another, each with all threads.

    If ``lanes`` batches run side by side, the last ones may be too few to fill the lanes. Up to half of the lanes, they
    are faster with all threads each.
    """
    rest = batches % lanes
    return rest if 2 * rest <= lanes else 0


def windows(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield consecutive lists of ``size`` items, the last one shorter. Nothing is read ahead."""
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least ``number``."""
    return 1 << max(0, number - 1).bit_length()
