"""Test the padding of token ids."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.preprocess.padding import mark_columns, pad_rows, padded_length, round_up


def test_numbers_are_rounded_up() -> None:
    assert [round_up(number, 16) for number in (1, 16, 17)] == [16, 16, 32]


@pytest.mark.parametrize(("multiple", "max_length", "length"), [(1, 64, 3), (8, 64, 8), (8, 6, 6), (8, 2, 3)])
def test_lengths_are_multiples_within_the_limit(multiple: int, max_length: int, length: int) -> None:
    assert padded_length(3, multiple=multiple, max_length=max_length) == length


def test_rows_are_filled_on_the_right() -> None:
    padded = pad_rows([[7, 8, 9], [5], []], 4, 1)
    assert padded.tolist() == [[7, 8, 9, 1], [5, 1, 1, 1], [1, 1, 1, 1]]
    assert padded.dtype == np.int64


def test_columns_are_marked_from_start_to_stop() -> None:
    marks = mark_columns([0, 1, 2, 3], [3, 3, 2, 1], 4)
    assert marks.tolist() == [[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert marks.dtype == np.int64
