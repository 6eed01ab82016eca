"""Collections of items that ``embed`` takes, and those that it refuses by name."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import runtime
from tests.runtime.toy_artifact import write_artifact

TEXTS = ["a b", "c", "d"]


class PolarsSeries:
    """It iterates its texts, and has the method of polars."""

    def __iter__(self) -> Any:
        raise AssertionError("to_list is faster")

    def to_list(self) -> list[str]:
        return TEXTS


class DatasetsColumn(Sequence[str]):
    """A column of Hugging Face's datasets is a sequence."""

    column_name = "text"

    def __getitem__(self, key: Any) -> Any:
        return TEXTS[key]

    def __len__(self) -> int:
        return len(TEXTS)


class ProgressBar:
    """An iterator whose length is only a guess, or ``None``, such as ``tqdm(texts, total=...)``."""

    def __init__(self, texts: list[str], total: int | None) -> None:
        self._texts, self._total = texts, total

    def __iter__(self) -> Any:
        return iter(self._texts)

    def __len__(self) -> Any:
        return self._total


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> runtime.Embedder:
    return runtime.load(write_artifact(tmp_path_factory.mktemp("items") / "toy"), provider="cpu", threads=1)


@pytest.mark.parametrize(
    "items",
    [
        pd.Series(TEXTS, index=[7, 7, 1]),
        pd.Series(TEXTS, dtype=object),
        pd.Index(TEXTS),
        pd.array(TEXTS, dtype="string"),
        pa.array(TEXTS),
        pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        PolarsSeries(),
        DatasetsColumn(),
        dict.fromkeys(TEXTS).keys(),
    ],
    ids=lambda items: type(items).__name__,
)
def test_a_column_of_texts_is_taken(model: runtime.Embedder, items: Any) -> None:
    np.testing.assert_array_equal(model.embed(items), model.embed(TEXTS))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"text": TEXTS}, "not a dict: its values"),
        (pd.DataFrame({"text": TEXTS}), "not a DataFrame of several columns"),
        (pa.table({"text": TEXTS}), "not a Table of several columns"),
        (pa.record_batch({"text": TEXTS}), "not a RecordBatch of several columns"),
        (np.array("a b"), "not an array without axes"),
        ({"a b"}, "a set has none"),
        (frozenset(["a b"]), "a frozenset has none"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_sequence_of_items_is_refused_by_name(model: runtime.Embedder, items: Any, message: str) -> None:
    with pytest.raises(runtime.UsageError, match=message):
        model.embed(items)


@pytest.mark.parametrize("null", [None, float("nan")])
def test_a_null_of_a_column_costs_itself_alone(model: runtime.Embedder, null: Any) -> None:
    result = model.embed(pd.Series(["a", null, "b"], dtype=object), on_error="skip")
    assert [failure.index for failure in result.failures] == [1]


def test_a_lone_surrogate_is_refused_with_an_error_that_can_be_encoded(model: runtime.Embedder) -> None:
    with pytest.raises(runtime.ItemError, match="character 2 is a lone surrogate") as caught:
        model.embed(["a", "b \ud83d c"])
    error = caught.value
    for text in (str(error), error.item, str(pickle.loads(pickle.dumps(error)))):  # noqa: S301
        assert "\\ud83d" in text.encode().decode()


@pytest.mark.parametrize("total", [None, 0, 1, 2000, 3000, 10_000])
def test_a_wrong_length_loses_no_item(model: runtime.Embedder, total: int | None) -> None:
    texts = [TEXTS[number % 3] for number in range(3000)]
    np.testing.assert_array_equal(model.embed(ProgressBar(texts, total)), model.embed(texts))
