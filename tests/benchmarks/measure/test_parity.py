"""Parity of a case has the figures of its vectors, and names the worst items."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.measure.parity import measure_parity
from runtime.errors import EmbeddingBackbonesError


def test_parity_names_the_worst_items() -> None:
    reference = np.random.default_rng(0).standard_normal((40, 8))
    vectors = reference.copy()
    vectors[7] *= -1
    vectors[3] += 0.5
    parity = measure_parity(reference, vectors, [f"item {row}\n" * 30 for row in range(40)], "torch")
    assert [worst.item.split(" item")[0] for worst in parity.worst[:2]] == ["item 7", "item 3"]
    assert parity.min_cosine == pytest.approx(-1)
    assert parity.p1_cosine > parity.min_cosine
    assert parity.relative_error == pytest.approx(parity.max_abs_error / np.abs(reference).max())
    assert parity.overlap_at_10 < 1
    assert all(len(worst.item) < 70 for worst in parity.worst)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [(np.zeros((12, 12)), "a vector of zeros"), (np.full((12, 12), np.nan), "NaN"), (np.eye(11), r"\[11, 11\]")],
    ids=["zeros", "nan", "shape"],
)
def test_vectors_that_cannot_be_compared_are_an_error(vectors: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(EmbeddingBackbonesError, match=message):
        measure_parity(np.eye(12), vectors, ["x"] * 12, "torch")
