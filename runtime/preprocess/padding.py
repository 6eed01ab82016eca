"""Pad batches of token ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.array_types import Array


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple of ``multiple`` that is at least ``number``."""
    return -(-number // multiple) * multiple


def pad_tokens(rows: Sequence[Sequence[int]], *, pad_token_id: int, multiple: int, max_length: int) -> dict[str, Array]:
    """Return token ids as ``input_ids`` and ``attention_mask``, both ``[rows, length]`` int64, padded on the right.

    The length is that of the longest row, rounded up to a multiple of ``multiple`` but at most ``max_length``. The mask
    of padding is 0.
    """
    longest = max(map(len, rows))
    length = max(longest, min(round_up(longest, multiple), max_length))
    input_ids = np.full((len(rows), length), pad_token_id, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for index, ids in enumerate(rows):
        input_ids[index, : len(ids)] = ids
        attention_mask[index, : len(ids)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}
