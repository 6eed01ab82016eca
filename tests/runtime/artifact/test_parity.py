from __future__ import annotations

import numpy as np
import pytest

from runtime.artifact.parity import Tolerance, measure_agreement, neighbour_overlap, row_cosines
from runtime.artifact.similarity import similarities

ROWS = np.random.default_rng(0).normal(size=(2, 30, 8)).astype(np.float32)


def test_row_cosines_are_the_diagonal_of_all_similarities() -> None:
    np.testing.assert_allclose(row_cosines(*ROWS), np.diag(similarities(*ROWS)), rtol=1e-12)
    assert row_cosines(*ROWS).dtype == np.float64
    assert (row_cosines(ROWS[0], ROWS[0] * 3) <= 1).all()


def test_a_row_of_zeros_has_no_direction() -> None:
    zeros = np.zeros((1, 8))
    assert np.isnan(row_cosines(zeros, zeros)).all()
    assert np.isnan(similarities(zeros, ROWS[0])).all()


def test_agreement_summarises_the_cosines() -> None:
    cosines, agreement = np.sort(row_cosines(*ROWS)), measure_agreement(*ROWS)
    assert agreement.min_cosine == cosines[0] < agreement.p1_cosine < cosines[1] < agreement.mean_cosine
    assert agreement.mean_cosine == pytest.approx(cosines.mean())


def test_agreement_with_nan_keeps_no_tolerance() -> None:
    tolerance = Tolerance(min_cosine=0.5, max_error=1.0, max_distance_share=1.0)
    assert measure_agreement(ROWS[0], ROWS[0]).within(tolerance)
    broken = ROWS[0].copy()
    broken[3, 2] = np.nan
    assert not measure_agreement(ROWS[0], broken).within(tolerance)


@pytest.mark.parametrize(("rows", "top"), [(30, 10), (5, 10)])
def test_equal_rows_have_the_same_neighbours(rows: int, top: int) -> None:
    assert neighbour_overlap(ROWS[0, :rows], 2 * ROWS[0, :rows], top) == 1


def test_neighbours_are_those_of_the_models_similarity() -> None:
    rows = np.array([[2.0, 0.0], [0.1, 0.0], [9.0, 9.0], [2.7, 0.7], [2.0, 1.2]])
    nearest = {}
    for function in ("cosine", "dot", "euclidean", "manhattan"):
        nearest[function] = int(similarities(rows[:1], rows, function)[0, 1:].argmax()) + 1
    assert nearest == {"cosine": 1, "dot": 2, "euclidean": 3, "manhattan": 4}
    scaled = rows * [[1], [20], [1], [1], [1]]  # the directions stay
    assert neighbour_overlap(rows, scaled, top=1) == 1
    assert neighbour_overlap(rows, scaled, top=1, function="euclidean") < 1
