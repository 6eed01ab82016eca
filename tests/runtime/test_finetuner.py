from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime import finetuner


def test_functions_of_finetuner_equal_those_of_the_runtime(exported: Path, photo_paths: list[Path]) -> None:
    model = finetuner.get_model(exported, batch_size=7, device="cpu")
    vectors = finetuner.encode(model, map(str, photo_paths), batch_size=2)
    np.testing.assert_allclose(vectors, runtime.load(exported).embed(photo_paths), atol=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 0], [1, 1], 0.5**0.5),
        ([[1, 0], [0, -2]], [3, 0], [[1], [0]]),
        ([[1, 0], [0, -2]], [[3, 0], [0, 1]], [[1, 0], [0, -1]]),
    ],
)
def test_cos_sim_is_the_cosine(a: list[int], b: list[int], expected: Any) -> None:
    similarity = finetuner.cos_sim(np.array(a), np.array(b))
    np.testing.assert_allclose(similarity, expected)
    assert isinstance(similarity, float) == isinstance(expected, float)


@pytest.mark.parametrize(("a", "b"), [(np.ones(2), np.ones(3)), (np.ones((2, 2, 2)), np.ones(2)), (np.ones(()), 1)])
def test_cos_sim_of_other_shapes_is_wrong_usage(a: Any, b: Any) -> None:
    with pytest.raises(runtime.UsageError, match=r"cannot be compared|must be \[rows, dim\]"):
        finetuner.cos_sim(a, b)


def test_an_unknown_tower_is_wrong_usage(exported: Path) -> None:
    with pytest.raises(runtime.UsageError, match="'clip-text', 'clip-vision' or None"):
        finetuner.get_model(exported, select_model="clip-audio")  # type: ignore[arg-type]
    with pytest.raises(runtime.UsageError, match="no text tower; the artifact has image"):
        finetuner.get_model(exported, select_model="clip-text")
