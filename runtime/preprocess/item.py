"""Prepare items one by one, so that an unusable item does not affect the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

ItemT = TypeVar("ItemT")
RowT = TypeVar("RowT")


class UnusableItemError(ValueError):
    """An item that cannot be embedded; the message is the reason."""


def prepare_each(prepare: Callable[[ItemT], RowT], items: Iterable[ItemT]) -> list[RowT | UnusableItemError]:
    """Return the result of ``prepare`` for each item, or the :class:`UnusableItemError` that it raises."""
    rows: list[RowT | UnusableItemError] = []
    for item in items:
        try:
            rows.append(prepare(item))
        except UnusableItemError as exc:
            rows.append(exc.with_traceback(None))  # the traceback would hold this frame, and all items
    return rows
