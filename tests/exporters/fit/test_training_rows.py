"""The report counts the rows that an epoch trains on, and a row that is trained on is not measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from exporters.errors import FitError, TrainingDataError
from exporters.fit import training
from exporters.fit.options import FitOptions
from exporters.fit.run import fit
from tests.exporters.fit.toy_data import make_labels, make_pairs

pytestmark = pytest.mark.usefixtures("no_export")


def start(toy: Path, output: Path, *data: list[dict[str, str]], **given: Any) -> Any:
    options = FitOptions(**{"epochs": 1, "batch_size": 16, "device": "cpu", **given})
    return fit(str(toy), *data, output=output, artifact_name="mine", options=options).report


def make_large_label() -> list[dict[str, str]]:
    return [row | {"label": "small" if index < 3 else "large"} for index, row in enumerate(make_labels(24))]


def test_rows_that_labels_leave_unused_are_counted(toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report = start(toy, tmp_path, make_large_label())
    assert (report.rows, report.rows_per_epoch, report.single_labels, report.steps) == (24, 4, 0, 1)
    assert "24 rows of labels (4 of 24 rows an epoch), loss" in report.describe()
    assert "an epoch trains on 4 of 24 rows: each batch takes two items of a label" in caplog.text
    assert json.loads((tmp_path / "mine-training" / "report.json").read_text())["rows_per_epoch"] == 4


def test_a_training_of_one_step_changes_the_weights(toy: Path, tmp_path: Path) -> None:
    assert start(toy, tmp_path, make_pairs(8)).steps == 1
    before, after = load_file(toy / "model.safetensors"), load_file(tmp_path / "mine-training/mine/model.safetensors")
    name = "embeddings.word_embeddings.weight"
    assert not torch.equal(before[name], after[name])


def test_a_training_that_changes_no_weights_is_refused(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training._Arguments, "get_warmup_steps", lambda *_: 1)
    with pytest.raises(FitError, match="the training changed no weights; give it more rows or --epochs"):
        start(toy, tmp_path, make_pairs(8))


def test_labels_with_one_item_are_refused_or_left_out(toy: Path, tmp_path: Path) -> None:
    rows = [*make_labels(24), {"item": "alone", "label": "single"}]
    with pytest.raises(TrainingDataError, match=r"1 rows with the only item of a label:\n  row 25: .*'single' has no"):
        start(toy, tmp_path, rows)
    report = start(toy, tmp_path, rows, on_error="skip")
    assert (report.rows, report.skipped) == (24, 1)


def test_labels_that_the_split_leaves_with_one_item_are_counted(toy: Path, tmp_path: Path) -> None:
    rows = make_labels(24) + [row | {"label": f"{index // 2}"} for index, row in enumerate(make_labels(36)[24:])]
    report = start(toy, tmp_path, rows, val_split=0.4, learning_rate=1e-9)
    assert report.single_labels > 0
    assert f"{report.single_labels} labels have one item" in report.describe()


def test_pairs_with_an_equal_item_are_counted_or_refused(toy: Path, tmp_path: Path) -> None:
    rows = [row | {"b": f"answer {index % 4}"} for index, row in enumerate(make_pairs(64))]
    report = start(toy, tmp_path / "first", rows)
    assert (report.rows_per_epoch, report.steps) == (16, 4)
    assert start(toy, tmp_path / "second", rows, batch_size=4).rows_per_epoch == 64
    with pytest.raises(TrainingDataError, match="no batch has two rows to compare: rows with an equal item"):
        start(toy, tmp_path / "third", [row | {"b": "the answer"} for row in rows])


def test_a_row_with_a_negative_trains_alone(toy: Path, tmp_path: Path) -> None:
    rows = [row | {"negative": f"a wrong answer {index}"} for index, row in enumerate(make_pairs(17))]
    assert start(toy, tmp_path / "first", rows).rows_per_epoch == 17
    same = [row | {"a": "one question"} for row in rows]
    assert start(toy, tmp_path / "second", same, batch_size=2).losses[0] > 0
    bad = [*rows, rows[0] | {"negative": rows[0]["b"]}]
    with pytest.raises(TrainingDataError, match="row 18: its 'negative' is the right answer at row 1"):
        start(toy, tmp_path / "third", bad)


@pytest.mark.parametrize(("loss", "used"), [("cosent", 16), ("cosine", 17)])
def test_a_batch_of_one_row_trains_some_losses_only(loss: str, used: int, toy: Path, tmp_path: Path) -> None:
    rows = [row | {"score": str(index % 2)} for index, row in enumerate(make_pairs(17))]
    assert start(toy, tmp_path, rows, loss=loss).rows_per_epoch == used


def test_every_epoch_has_an_order_of_its_own() -> None:
    sampler = training._ShuffledBatches(range(32), batch_size=8, drop_last=False, generator=torch.Generator())
    orders = []
    for epoch in (0, 1, 1):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] != orders[1] == orders[2]


def test_equal_items_do_not_find_each_other(toy: Path, tmp_path: Path) -> None:
    equal = [{"item": "an item", "label": "a label"}] * 2
    with pytest.raises(TrainingDataError, match="no label of the evaluation data has two distinct items"):
        start(toy, tmp_path, make_labels(24), equal)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"item": f"thing {index}", "label": "one"} for index in range(4)], "every item .* is a right answer"),
        ([{"a": f"question {index}", "b": "the answer"} for index in range(4)], "every item .* is a right answer"),
        ([{"a": "one row", "b": "one answer"}], "every item .* is a right answer, so any model finds it; give rows"),
        ([{"a": f"x {index}", "b": f"y {index}", "score": 1} for index in range(4)], "all scores .* are equal"),
        ([{"a": "one row", "b": "one score", "score": 1}], "all scores .* are equal, so nothing correlates"),
    ],
)
def test_evaluation_data_that_tells_no_model_from_another_is_refused(
    rows: list[dict[str, Any]], message: str, toy: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingDataError, match=message):
        start(toy, tmp_path, make_pairs(8), rows)


def test_rows_of_the_training_data_are_not_measured(toy: Path, tmp_path: Path) -> None:
    rows = [{"a": f"question {index}", "b": f"answer {index}"} for index in range(24)]
    with pytest.raises(
        TrainingDataError, match="4 rows of the evaluation data that are in the training data"
    ) as raised:
        start(toy, tmp_path, rows[:16], rows[12:])
    assert "row 1: the training data has it at row 13" in str(raised.value)
    report = start(toy, tmp_path, rows[:16], rows[12:], on_error="skip", learning_rate=1e-9)
    assert (report.rows, report.eval_rows, report.skipped) == (16, 8, 4)
