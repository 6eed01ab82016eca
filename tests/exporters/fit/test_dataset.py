"""Training data is read row by row, and every bad row is named by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet as pq

from exporters.errors import TrainingDataError
from exporters.fit.dataset import (
    DataSource,
    check_columns,
    check_items,
    check_labels,
    describe_bad,
    leave_out_contradictions,
    leave_out_single_labels,
    leave_out_trained,
    number_labels,
    read_data,
)
from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError
from runtime.preprocess.item import UnusableItemError


def write(path: Path, text: str) -> str:
    path.write_text(text, "utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("header", "row", "kind", "target"),
    [
        ("item,label", "a cat,pets", "labels", "pets"),
        ("a,b", "a cat,a dog", "pairs", None),
        ("score,a,b", "0.5,a cat,a dog", "scores", 0.5),
        ("a,note,b", "a cat,anything,a dog", "pairs", None),
        ("negative,a,b", "a car,a cat,a dog", "triplets", None),
        ("a,b,negative_source", "a cat,a dog,anything", "pairs", None),
    ],
)
def test_the_columns_tell_the_kind(header: str, row: str, kind: str, target: object, tmp_path: Path) -> None:
    data, bad = read_data(write(tmp_path / "d.csv", f"{header}\n{row}\n"), ["text"])
    assert (data.kind, data.rows[0].target, data.rows[0].items[0], bad) == (kind, target, "a cat", [])


@pytest.mark.parametrize(
    ("columns", "towers", "message"),
    [
        ("a,b,score,negative", ["text"], "the columns score and negative; leave out one of them"),
        ("a,b,negative_1,negative_2", ["text"], "negative_1, negative_2; a row takes one wrong answer, in the column"),
        ("a,b,negative,negative_2", ["text"], "the columns negative_2; a row takes one wrong answer"),
        ("text,image,negative", ["text", "image"], "a column of negatives, which captions do not take"),
    ],
)
def test_negatives_that_would_be_ignored_are_refused(columns: str, towers: list[TowerName], message: str) -> None:
    with pytest.raises(TrainingDataError, match=message):
        read_data([dict.fromkeys(columns.split(","), "1")], towers)


def test_a_negative_that_is_a_right_answer_is_bad() -> None:
    rows = [("q", "right", "wrong"), ("q", "also right", "right"), ("other", "wrong", "right"), ("r", "same", "same")]
    data, _ = read_data([{"a": a, "b": b, "negative": negative} for a, b, negative in rows], ["text"])
    kept, bad = leave_out_contradictions(data)
    assert [row.place for row in kept.rows] == ["row 1", "row 3"]
    assert describe_bad(bad).splitlines() == [
        "  row 2: its 'negative' is the right answer at row 1",
        "  row 4: its 'negative' is the right answer at row 4",
    ]


def test_rows_with_the_same_right_answer_stay_together() -> None:
    rows = [{"a": f"q {index % 4}", "b": f"d {index % 4}", "negative": f"n {index}"} for index in range(16)]
    data, _ = read_data(rows, ["text"])
    kept, held_out = data.split(0.5, seed=0)
    assert not {row.items[0] for row in kept.rows} & {row.items[0] for row in held_out.rows}


def test_a_clip_takes_captions_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "image,text\nx.jpg,a cat\n")
    data, _ = read_data(path, ["text", "image"])
    assert (data.kind, data.towers, data.rows[0].items) == ("captions", ("text", "image"), ("a cat", "x.jpg"))
    with pytest.raises(
        TrainingDataError, match="has the columns image, text; this model takes item,label or a,b,score"
    ):
        read_data(path, ["image"])


def test_all_formats_give_the_same_rows(tmp_path: Path) -> None:
    rows = [{"a": "ein Kätzchen", "b": "one, two\nlines"}, {"a": "x", "b": "y"}]
    csv = write(tmp_path / "d.csv", '\ufeffa,b\n"ein Kätzchen","one, two\nlines"\nx,y\n')
    jsonl = write(tmp_path / "d.jsonl", "".join(json.dumps(row) + "\n\n" for row in rows))
    parquet = str(tmp_path / "d.parquet")
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    bare = write(tmp_path / "bare.tsv", '"ein Kätzchen"\t"one, two\nlines"\nx\ty\n')
    read = [read_data(source, ["text"])[0] for source in (csv, jsonl, parquet, rows)]
    read.append(read_data(bare, ["text"], ["a", "b"])[0])
    assert [[row.items for row in data.rows] for data in read] == [[tuple(row.values()) for row in rows]] * 5


def test_bad_rows_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(b'a,b,score\nx,y,1\nx,y\nx, ,1\nx,y,much\nx,"two\nlines",nan\n\xff,y,1\n')
    data, bad = read_data(path, ["text"])
    assert [row.place for row in data.rows] == [f"{path}:2"]
    assert describe_bad(bad).splitlines() == [
        f"  {path}:3: the row has 2 fields, expected 3: a, b, score",
        f"  {path}:4: 'b' is empty",
        f"  {path}:5: 'score' is 'much', not a number",
        f"  {path}:7: 'score' is nan",
        f"  {path}:8: 'a' is not UTF-8; convert the file",
    ]
    lines = write(tmp_path / "d.jsonl", '{"item": "x", "label": 3}\n[1]\n{"item"\n{"item": 4, "label": 1}\n')
    data, bad = read_data(lines, ["text"])
    assert [row.target for row in data.rows] == ["3"]
    assert [place for place, _ in bad] == [f"{lines}:{number}" for number in (2, 3, 4)]
    assert describe_bad(bad * 4).endswith("\n  and 2 more")


@pytest.mark.parametrize("label", [None, float("nan"), " "])
def test_a_missing_label_is_no_class(label: object) -> None:
    data, bad = read_data([{"item": "x", "label": 1}, {"item": "y", "label": label}], ["text"])
    assert (len(data.rows), describe_bad(bad)) == (1, "  row 2: 'label' is empty")


def test_unusable_items_are_named_by_line(tmp_path: Path) -> None:
    data, _ = read_data([{"item": "a.jpg", "label": "x"}, {"item": "b.jpg", "label": "x"}], ["image"])

    def prepare(item: str) -> None:
        if item == "b.jpg":
            raise UnusableItemError("there is no such file")

    data, bad = check_items(data, {"image": prepare})
    assert len(data.rows) == 1
    assert describe_bad(bad) == "  row 2: 'b.jpg' is unusable: there is no such file"


def test_folders_of_classes_and_of_their_splits(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for split in ("train", "test"):
            (tmp_path / label / split).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / label / split / f"{split}.png")
            (tmp_path / label / split / "notes.txt").write_text("no image")
    (tmp_path / "README.md").write_text("no class")
    everything, _ = read_data(tmp_path, ["image"])
    assert [row.target for row in everything.rows] == ["cat", "cat", "dog", "dog"]
    train, _ = read_data(f"{tmp_path}/*/train", ["image"])
    assert [(row.target, Path(row.items[0]).name) for row in train.rows] == [("cat", "train.png"), ("dog", "train.png")]
    for split in ("train", "test"):
        (tmp_path / "splits" / split / "cat").mkdir(parents=True)
    with pytest.raises(UsageError, match="the folders test, train, which are parts of the data and no classes; give"):
        read_data(tmp_path / "splits", ["image"])
    with pytest.raises(UsageError, match="folder of classes, which are for images and meshes"):
        read_data(tmp_path, ["text"])
    with pytest.raises(UsageError, match="another pattern than one folder"):
        read_data(f"{tmp_path}/*/tr*", ["image"])


def test_a_file_without_a_class_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for name in ("cat/a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    data, bad = read_data(tmp_path, ["image"])
    assert (len(data.rows), describe_bad(bad)) == (1, f"  {tmp_path}/b.png: the file lies in no folder of a class")


@pytest.mark.parametrize(
    ("name", "content", "towers", "message"),
    [
        ("d.csv", "first,second\nx,y\n", ["text"], "has the columns first, second.*--columns"),
        ("d.csv", "a,b\n", ["text"], "has no rows of item,label or a,b,score or a,b"),
        ("d.xlsx", "x", ["text"], "is not a .csv"),
        ("d.csv", "a,b,a\nx,y,z\n", ["text"], "has 2 columns 'a'; rename all but one"),
        ("d.csv", "a,b,item,label\nx,y,z,1\n", ["text"], "has the columns item,label and a,b; leave out one"),
    ],
)
def test_strange_sources_are_refused(
    name: str, content: str, towers: list[TowerName], message: str, tmp_path: Path
) -> None:
    with pytest.raises((TrainingDataError, UsageError), match=message):
        read_data(write(tmp_path / name, content), towers)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no "):
        read_data(tmp_path / "none.csv", ["text"])


def test_columns_are_for_csv_files_without_a_header(tmp_path: Path) -> None:
    files = {"bare.csv": "x,y\n", "header.csv": "\nB,note, a\ny,1,x\n", "d.jsonl": '{"a": "x", "b": "y"}\n'}
    sources: list[DataSource] = [
        *(write(tmp_path / name, text) for name, text in files.items()),
        [{"a": "x", "b": "y"}],
    ]
    for source in sources:
        check_columns(["a", "b"], source, sources[0])
        data, bad = read_data(source, ["text"], ["A", "b"])
        assert ([row.items for row in data.rows], bad) == ([("x", "y")], [])
    with pytest.raises(UsageError, match="CSV files without a header, and there is none; leave it out"):
        check_columns(["a", "b"], *sources[2:], None)
    with pytest.raises(TrainingDataError, match="has 2 columns 'b'"):
        read_data(write(tmp_path / "e.csv", "x,y,z\n"), ["text"], ["a", "b", "b"])


def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "d.parquet")
    pq.write_table(pa.table([["x"], ["y"], ["z"]], names=["a", "b", "a"]), path)
    with pytest.raises(TrainingDataError, match="has 2 columns 'a'"):
        read_data(path, ["text"])
    lines = write(tmp_path / "d.jsonl", '{"a": "x", "b": "y"}\n{"a": "x", "b": "y", "a": "z"}\n')
    assert "a name occurs twice" in describe_bad(read_data(lines, ["text"])[1])


def test_rows_in_memory_are_dicts() -> None:
    with pytest.raises(TrainingDataError, match=r"row 1: the row is of type tuple, expected a dict"):
        read_data(cast(Any, [("x", "y")]), ["text"])


def test_rows_with_the_columns_of_another_kind_are_bad(tmp_path: Path) -> None:
    first, second = '{"a": "x", "b": "y"}\n', '{"a": "x", "b": "y", "score": 0.5}\n'
    path = write(tmp_path / "d.jsonl", first + second + '{"item": "x", "label": 1}\n')
    data, bad = read_data(path, ["text"])
    assert len(data.rows) == 1
    assert describe_bad(bad).splitlines() == [
        f"  {path}:2: the row has the columns a,b,score, and the first row has a,b",
        f"  {path}:3: the row has the columns item,label, and the first row has a,b",
    ]
    data, bad = read_data(write(tmp_path / "e.jsonl", second + first), ["text"])
    assert "the row has the columns a,b, and the first row has a,b,score" in describe_bad(bad)


def test_a_held_out_share_depends_on_the_seed_alone() -> None:
    data, _ = read_data([{"item": f"item {number}", "label": number % 2} for number in range(20)], ["text"])
    kept, held_out = data.split(0.25, seed=3)
    assert (len(kept.rows), len(held_out.rows)) == (15, 5)
    assert sorted(row.place for row in (*kept.rows, *held_out.rows)) == sorted(row.place for row in data.rows)
    assert data.split(0.25, seed=3) == (kept, held_out)
    assert data.split(0.25, seed=4) != (kept, held_out)


def test_equal_rows_stay_together() -> None:
    rows = [{"a": f"question {number % 10}", "b": f"answer {number % 10}"} for number in range(40)]
    rows += [{"a": row["b"], "b": row["a"]} for row in rows]
    kept, held_out = read_data(rows, ["text"])[0].split(0.3, seed=0)
    assert (len(kept.rows), len(held_out.rows)) == (56, 24)
    assert not set(map(kept.identify, kept.rows)) & set(map(held_out.identify, held_out.rows))


def test_one_file_is_one_item_by_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, _ = read_data([{"item": "a.jpg", "label": 1}, {"item": f"{tmp_path}/a.jpg", "label": 2}], ["image"])
    assert data.identify(data.rows[0]) == data.identify(data.rows[1])


def test_evaluation_data_that_is_trained_on_is_named() -> None:
    trained, _ = read_data([{"a": "x", "b": "y", "score": 1}, {"a": "u", "b": "v", "score": 0}], ["text"])
    data, _ = read_data([{"a": "x", "b": "z", "score": 1}, {"a": "x", "b": "y", "score": 0.5}], ["text"])
    kept, bad = leave_out_trained(data, trained)
    assert [row.place for row in kept.rows] == ["row 1"]
    assert describe_bad(bad) == "  row 2: the training data has it at row 1"


def test_labels_with_one_item_are_named() -> None:
    data, _ = read_data([{"item": f"item {label}", "label": label} for label in "aabbc"], ["text"])
    kept, bad = leave_out_single_labels(data)
    assert len(kept.rows) == 4
    assert describe_bad(bad).startswith("  row 5: the label 'c' has no other item")


def test_labels_that_cannot_be_told_apart_are_refused() -> None:
    rows = [{"item": "x", "label": label} for label in ("a", "a", "b")]
    with pytest.raises(TrainingDataError, match="no two labels with two items each"):
        check_labels(read_data(rows, ["text"])[0], "the training data")
    data, _ = read_data([*rows, {"item": "y", "label": "b"}], ["text"])
    check_labels(data, "the training data")
    assert number_labels(data.rows) == [0, 0, 1, 1]
