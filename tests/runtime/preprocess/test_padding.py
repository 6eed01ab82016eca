"""Test the padding of token ids."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.preprocess.padding import pad_tokens, round_up


def test_numbers_are_rounded_up() -> None:
    assert [round_up(number, 16) for number in (1, 16, 17)] == [16, 16, 32]


@pytest.mark.parametrize(("multiple", "max_length", "length"), [(1, 64, 3), (8, 64, 8), (8, 6, 6)])
def test_rows_are_padded_to_a_multiple_within_the_limit(multiple: int, max_length: int, length: int) -> None:
    batch = pad_tokens([[7, 8, 9], [5]], pad_token_id=1, multiple=multiple, max_length=max_length)
    fill = length - 3
    assert batch["input_ids"].tolist() == [[7, 8, 9] + [1] * fill, [5, 1, 1] + [1] * fill]
    assert batch["attention_mask"].tolist() == [[1, 1, 1] + [0] * fill, [1, 0, 0] + [0] * fill]
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}
