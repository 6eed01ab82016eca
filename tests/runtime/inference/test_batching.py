"""Test windows and batches."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

import runtime
from runtime.inference.batching import BatchLimit, plan_batches, windows
from runtime.inference.pipeline import Pipeline
from runtime.inference.tower import Row, row_cost
from runtime.preprocess.padding import round_up

LENGTHS: list[int] = np.random.default_rng(0).integers(1, 300, 500).tolist()


@pytest.mark.parametrize(
    "limit", [BatchLimit(items=7), BatchLimit(budget=1000), BatchLimit(budget=1000, multiple=16), BatchLimit()], ids=str
)
def test_every_position_is_in_one_batch(limit: BatchLimit) -> None:
    positions = [position for batch in plan_batches(LENGTHS, limit) for position in batch]
    assert sorted(positions) == list(range(len(LENGTHS)))


@pytest.mark.parametrize("multiple", [1, 16])
def test_padded_batches_stay_within_the_budget(multiple: int) -> None:
    batches = plan_batches(LENGTHS, BatchLimit(budget=1000, multiple=multiple))
    padded = [len(batch) * round_up(max(LENGTHS[at] for at in batch), multiple) for batch in batches]
    assert max(padded) <= 1000
    assert len(batches) < sum(LENGTHS) / 700, "batches use most of the budget"


def test_items_of_similar_length_share_a_batch_the_longest_first() -> None:
    batches = plan_batches(LENGTHS, BatchLimit(items=10))
    ranges = [[LENGTHS[at] for at in batch] for batch in batches]
    assert all(min(longer) >= max(shorter) for longer, shorter in itertools.pairwise(ranges))
    assert {len(batch) for batch in batches} == {10}


def test_a_batch_ends_where_its_padding_would_cost_more_than_another_batch() -> None:
    limit = BatchLimit(budget=100, multiple=4, padding=10)
    assert plan_batches([8, 7, 2, 2, 2, 2, 2], limit) == [[0, 1, 2, 3], [4, 5, 6]], "8 - 4 of padding, twice"
    assert plan_batches([8, 7, 2, 2, 2, 2, 2], replace(limit, padding=None)) == [[0, 1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize("powers_of_two", [False, True])
def test_bounded_padding_saves_tokens_for_few_batches_more(powers_of_two: bool) -> None:
    limit = BatchLimit(budget=65536, multiple=8, powers_of_two=powers_of_two)
    free, bound = plan_batches(LENGTHS, limit), plan_batches(LENGTHS, replace(limit, padding=2048))
    saved = count_padded_tokens(free, 8) - count_padded_tokens(bound, 8)
    assert sorted(position for batch in bound for position in batch) == list(range(len(LENGTHS)))
    assert saved > 2048 * (len(bound) - len(free)) > 0


def test_few_mixed_texts_on_a_cpu_are_not_padded_to_the_longest_of_them(exported_text: Path) -> None:
    """Measured with MiniLM: in one batch, eight such texts take twice as long as one by one."""
    model = runtime.load(exported_text, provider="cpu")
    tower = cast("Pipeline", model.backend).towers["text"]
    texts = [" ".join("word" for _ in range(count)) for count in (1, 2, 2, 2, 9, 10, 20, 20)]
    rows = cast("list[Row]", tower.prepare(texts))
    for batch in tower.plan_batches(rows):
        widths = [row_cost(rows[at]) for at in batch]
        assert len(batch) * max(widths) - sum(widths) <= 16
    assert len(tower.plan_batches(rows)) > 1
    assert [len(batch) for batch in tower.plan_batches(rows, batch_size=8)] == [8], "as the caller wants"


def test_an_item_beyond_the_budget_gets_a_batch_of_its_own() -> None:
    assert plan_batches([5, 50, 4], BatchLimit(budget=10)) == [[1], [0, 2]]


def count_padded_tokens(batches: list[list[int]], multiple: int) -> int:
    """Return the tokens of ``batches`` of `LENGTHS`, padding included."""
    return sum(len(batch) * round_up(max(LENGTHS[at] for at in batch), multiple) for batch in batches)


def test_windows_read_nothing_ahead() -> None:
    source = iter(range(10))
    assert next(windows(source, 4)) == [0, 1, 2, 3]
    assert next(source) == 4
    assert list(windows(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(windows([], 2)) == []


@pytest.mark.parametrize("limit", [BatchLimit(items=24), BatchLimit(budget=4096, multiple=32)], ids=str)
def test_batches_of_few_shapes_are_rounded_down_to_a_power_of_two_within_the_limit(limit: BatchLimit) -> None:
    few = plan_batches(LENGTHS, replace(limit, powers_of_two=True))
    assert sorted(position for batch in few for position in batch) == list(range(len(LENGTHS)))
    for batch in few:
        assert len(batch).bit_count() == 1
        longest = max(LENGTHS[at] for at in batch)
        assert len(batch) == 1 or limit.largest(longest, len(batch)) == len(batch)
    assert len(few) <= 2 * len(plan_batches(LENGTHS, limit)) + 10
