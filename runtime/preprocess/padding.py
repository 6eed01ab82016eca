"""Pad batches of token ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.array_types import Array


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple of ``multiple`` that is at least ``number``."""
    return -(-number // multiple) * multiple


def padded_length(longest: int, *, multiple: int, max_length: int) -> int:
    """Return ``longest`` rounded up to a multiple of ``multiple``, but at most ``max_length``."""
    return max(longest, min(round_up(longest, multiple), max_length))


def pad_rows(rows: Sequence[Sequence[int]], length: int, fill: int) -> Array:
    """Return ``[rows, length]`` int64, with ``fill`` on the right of the shorter rows."""
    if all(len(row) == length for row in rows):  # such as a text alone
        return np.array(rows, dtype=np.int64)
    padded = np.full((len(rows), length), fill, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


def mark_columns(starts: Sequence[int], stops: Sequence[int], length: int) -> Array:
    """Return ``[rows, length]`` int64 that is 1 from the start of each row to its stop, and 0 elsewhere."""
    if not any(starts) and all(stop == length for stop in stops):
        return np.ones((len(stops), length), dtype=np.int64)
    columns = np.arange(length)
    marks: Array = (columns >= np.array(starts)[:, None]) & (columns < np.array(stops)[:, None])
    return marks.astype(np.int64)
