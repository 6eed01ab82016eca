"""Similarities are of numbers, and need little memory beside the vectors."""

from __future__ import annotations

import tracemalloc
from typing import Any, get_args

import numpy as np
import pytest

from runtime.artifact.similarity import SimilarityFunction, similarities
from runtime.errors import UsageError

FUNCTIONS = get_args(SimilarityFunction)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((2, 4), np.int8), "vectors of int8 are codes; dequantize them first"),
        (np.ones((2, 4), np.uint8), "vectors of uint8 are codes; dequantize them first"),
        (np.ones((2, 4), np.complex64), "real numbers, not complex64"),
        (np.ones((2, 4), np.bool_), "real numbers, not bool"),
        ([["1", "2"]], "real numbers, not <U1"),
        (None, "real numbers, not object"),
        ([], r"vectors must be \[rows, dim\], not \[0\]"),
    ],
)
def test_other_than_real_numbers_is_refused(vectors: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        similarities(vectors, vectors)


def test_lists_and_any_width_are_numbers() -> None:
    for rows in ([[1.0, 0.0], [0.0, 2.0]], [[1, 0], [0, 2]], np.array([[1, 0], [0, 2]], np.float16)):
        np.testing.assert_array_equal(similarities(rows, rows), np.eye(2))  # type: ignore[arg-type]


def test_no_rows_have_no_similarities() -> None:
    assert similarities(np.ones((2, 4)), np.ones((0, 4)), "euclidean").shape == (2, 0)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_many_rows_are_compared_in_little_memory(function: SimilarityFunction) -> None:
    rows = np.random.default_rng(0).normal(size=(50_001, 64)).astype(np.float32)
    tracemalloc.start()
    try:
        found = similarities(rows[:1], rows, function)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000  # the rows take 25.6 MB as float64
    for part in (slice(1000, 1050), slice(-3, None)):
        np.testing.assert_allclose(found[:, part], similarities(rows[:1], rows[part], function), rtol=1e-12)
