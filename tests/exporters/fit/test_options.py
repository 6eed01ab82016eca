"""Options and losses that make no sense are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from exporters.errors import TrainingDataError
from exporters.fit.dataset import read_data
from exporters.fit.losses import LOSSES, choose_loss
from exporters.fit.options import FitOptions
from runtime.errors import UsageError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "numbers from 1"),
        ({"dims": (8, 0)}, "numbers from 1"),
        ({"batch_size": 1}, "no negatives"),
        ({"learning_rate": 0.0}, "not above 0"),
        ({"val_split": 1.0}, "shares"),
        ({"seed": -1}, "seed -1"),
        ({"device": "tpu"}, "neither cpu nor cuda"),
        ({"freeze": True, "lora": 4}, "exclude each other"),
    ],
)
def test_wrong_values_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FitOptions(**given)


@pytest.mark.parametrize(
    ("rows", "default", "other"),
    [
        ([{"a": "x", "b": "y"}], "ranking", "cosent"),
        ([{"a": "x", "b": "y", "score": score} for score in (3, 4)], "cosent", "ranking"),
        ([{"item": "x", "label": "y"}], "triplet-hard", "clip"),
    ],
)
def test_each_kind_of_data_has_its_losses(rows: list[dict[str, Any]], default: str, other: str) -> None:
    data, _ = read_data(rows, ["text"])
    assert choose_loss(None, data) == default
    with pytest.raises(UsageError, match=f"{other!r} is not for {data.kind}; choose one of {default}"):
        choose_loss(other, data)
    for name, loss in LOSSES.items():
        if data.kind in loss.kinds and name != "cosine":
            assert choose_loss(name, data) == name


def test_scores_that_are_no_cosines_are_refused() -> None:
    data, _ = read_data([{"a": "x", "b": "y", "score": 1}, {"a": "x", "b": "y", "score": 5}], ["text"])
    with pytest.raises(TrainingDataError, match=r"row 2: the score 5\.0 is no cosine"):
        choose_loss("cosine", data)


@pytest.mark.parametrize("name", [None, "cosent"])
def test_equal_scores_are_for_cosine_alone(name: str | None) -> None:
    data, _ = read_data([{"a": "x", "b": y, "score": 1} for y in "yz"], ["text"])
    with pytest.raises(TrainingDataError, match=r"all scores are equal, and cosent compares .*; use cosine"):
        choose_loss(name, data)
    assert choose_loss("cosine", data) == "cosine"
