"""Read training data: CSV, JSONL and parquet files, folders with one folder for each class, or rows in memory."""

from __future__ import annotations

import json
import math
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from exporters.errors import TrainingDataError
from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError
from runtime.jobs.csv_files import CSV_SUFFIXES, open_csv
from runtime.jobs.inputs import folder_suffixes, walk_folder
from runtime.jobs.items import Unreadable
from runtime.jobs.parquet import open_parquet
from runtime.jobs.text_files import read_file_lines
from runtime.preprocess.files import file_suffix
from runtime.preprocess.item import UnusableItemError

DataKind = Literal["labels", "scores", "triplets", "pairs", "captions"]
DataSource = str | os.PathLike[str] | Sequence[Mapping[str, object]]
Entry = tuple[str, "Mapping[str, object] | Unreadable"]  # of a row: its place, and its values by column
Bad = tuple[str, str]  # of a row: its place, and the reason
# The order matters: a pair with a score or a wrong answer has the columns of a pair, too.
COLUMNS: Mapping[DataKind, tuple[str, ...]] = {
    "labels": ("item", "label"),
    "scores": ("a", "b", "score"),
    "triplets": ("a", "b", "negative"),
    "pairs": ("a", "b"),
    "captions": ("text", "image"),
}
_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev"}
_LISTED = 10  # bad rows in a message


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the data: its place, its items, and the label or score, if the kind of data has one."""

    place: str
    items: tuple[str, ...]
    target: str | float | None = None


@dataclass(frozen=True, kw_only=True)
class Data:
    """Rows of one kind. ``towers`` names the tower of each item of a row."""

    kind: DataKind
    towers: tuple[TowerName, ...]
    rows: tuple[Row, ...]

    def split(self, share: float, seed: int) -> tuple[Data, Data]:
        """Return the data without a random ``share`` of the distinct rows, and these rows. Equal rows stay together."""
        names = [self.identify(row) for row in self.rows]
        distinct = list(dict.fromkeys(names))
        order = random.Random(seed).sample(distinct, len(distinct))  # noqa: S311  no secret
        held_out = set(order[: round(share * len(order))])
        kept, others = list[Row](), list[Row]()
        for row, name in zip(self.rows, names, strict=True):
            (others if name in held_out else kept).append(row)
        return replace(self, rows=tuple(kept)), replace(self, rows=tuple(others))

    def identify(self, row: Row) -> tuple[str, ...]:
        """Return the items of a row, in an order that ignores their side. Rows are equal if their items are.

        A label, a score or a wrong answer does not count: a model that is trained on the items has seen them.
        """
        items = list(zip(self.towers, row.items, strict=True))[:2]
        return tuple(sorted(item if tower == "text" else os.path.realpath(item) for tower, item in items))


def read_data(source: DataSource, towers: Sequence[TowerName], columns: Sequence[str] = ()) -> tuple[Data, list[Bad]]:
    """Read all rows of ``source``, and return the good ones, and the bad ones with the reason of each.

    Args:
        source: A ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file; a folder with a folder for each class; a pattern
            with one ``*`` that stands for the names of the classes; or rows in memory. Paths in a file are relative to
            the current folder.
        towers: The towers of the model.
        columns: Names of the columns of a CSV file without a header. They are ignored for another source, and for a CSV
            file whose first row has all of these names.

    Raises:
        UsageError: The source does not exist, or is of an unknown kind.
        TrainingDataError: It has no rows, or not the columns of a kind of data that the model takes.
    """
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "the data"
    entries = list(_read_entries(source, towers, columns))
    accepted = [kind for kind in COLUMNS if (kind == "captions") == (len(towers) > 1)]
    kind = _find_kind(name, entries, accepted)
    named: tuple[TowerName, ...] = ("text", "image") if kind == "captions" else (towers[0],) * _count_items(kind)
    rows, bad = [], list[Bad]()
    for place, values in entries:
        row = values if isinstance(values, Unreadable) else _read_row(place, values, kind, accepted)
        if isinstance(row, Unreadable):
            bad.append((place, row.reason))
        else:
            rows.append(row)
    return Data(kind=kind, towers=named, rows=tuple(rows)), bad


def check_items(data: Data, prepare: Mapping[TowerName, Callable[[str], object]]) -> tuple[Data, list[Bad]]:
    """Prepare every item once as the training will, and return the good rows, and the bad ones with their reasons.

    Args:
        data: The rows.
        prepare: For each tower, a function that raises an :class:`UnusableItemError` for a bad item.
    """

    def find_fault(row: Row) -> str | None:
        for tower, item in zip(data.towers, row.items, strict=True):
            try:
                prepare[tower](item)
            except UnusableItemError as exc:
                return f"{item!r} is unusable: {exc}"
        return None

    return _separate(data, find_fault)


def leave_out_trained(data: Data, trained: Data) -> tuple[Data, list[Bad]]:
    """Return the evaluation data without the rows that the training data has, too, and these with their places."""
    places = {trained.identify(row): row.place for row in reversed(trained.rows)}

    def find_fault(row: Row) -> str | None:
        place = places.get(data.identify(row))
        return None if place is None else f"the training data has it at {place}"

    return _separate(data, find_fault)


def leave_out_single_labels(data: Data) -> tuple[Data, list[Bad]]:
    """Return the data without the rows whose label has no other item, and these with their reasons."""
    singles = find_single_labels(data)
    reason = "the label {!r} has no other item, and a training compares two items of a label"
    return _separate(data, lambda row: reason.format(row.target) if row.target in singles else None)


def leave_out_contradictions(data: Data) -> tuple[Data, list[Bad]]:
    """Return the data without the rows whose wrong answer is a right one for an equal item, and these with reasons."""
    if data.kind != "triplets":
        return data, []
    right = {row.items[:2]: row.place for row in reversed(data.rows)}

    def find_fault(row: Row) -> str | None:
        place = right.get((row.items[0], row.items[2]))
        return None if place is None else f"its 'negative' is the right answer at {place}"

    return _separate(data, find_fault)


def _separate(data: Data, find_fault: Callable[[Row], str | None]) -> tuple[Data, list[Bad]]:
    """Return the data without the rows that have a fault, and these with their faults."""
    found = [(row, find_fault(row)) for row in data.rows]
    bad = [(row.place, fault) for row, fault in found if fault is not None]
    return replace(data, rows=tuple(row for row, fault in found if fault is None)), bad


def find_single_labels(data: Data) -> set[object]:
    """Return the labels with one item. Data of another kind has none."""
    counts = Counter(row.target for row in data.rows)
    return {label for label, count in counts.items() if data.kind == "labels" and count == 1}


def describe_bad(bad: Sequence[Bad]) -> str:
    """Return the places and reasons of the first bad rows, one a line."""
    lines = [f"  {place}: {reason}" for place, reason in bad]
    return "\n".join(lines[:_LISTED]) + f"\n  and {len(lines) - _LISTED} more" * (len(lines) > _LISTED)


def check_labels(data: Data, name: str) -> None:
    """Check that labels can be told apart: two of them have two items each.

    Raises:
        TrainingDataError: They have not.
    """
    counts = Counter(row.target for row in data.rows)
    if data.kind == "labels" and sum(count >= 2 for count in counts.values()) < 2:
        raise TrainingDataError(f"{name} has no two labels with two items each, so there is nothing to tell apart")


def check_columns(columns: Sequence[str], *sources: DataSource | None) -> None:
    """Check that the names of columns are for one of the sources at least.

    Raises:
        UsageError: None of them is a CSV file.
    """
    paths = [os.fspath(source) for source in sources if isinstance(source, str | os.PathLike)]
    if columns and not any(file_suffix(path) in CSV_SUFFIXES for path in paths):
        raise UsageError("--columns names the columns of CSV files without a header, and there is none; leave it out")


def _count_items(kind: DataKind) -> int:
    return {"labels": 1, "triplets": 3}.get(kind, 2)


def _read_entries(source: DataSource, towers: Sequence[TowerName], columns: Sequence[str]) -> Iterator[Entry]:
    if not isinstance(source, str | os.PathLike):
        return ((f"row {number}", _check_mapping(values)) for number, values in enumerate(source, 1))
    path = os.fspath(source)
    suffix = file_suffix(path)
    if "*" in path or Path(path).is_dir():
        return _read_classes(path, towers)
    if not Path(path).is_file():
        raise UsageError(f"there is no {path}; give a file, a folder of classes, or a pattern such as 'shapes/*/train'")
    if suffix in CSV_SUFFIXES:
        return _read_csv(path, columns)
    if suffix == ".jsonl":
        return _read_jsonl(path)
    if suffix == ".parquet":
        return _read_parquet(path)
    raise UsageError(f"{path} is not a .csv, .tsv, .jsonl or .parquet file, and not a folder of classes")


def _check_mapping(values: object) -> Mapping[str, object] | Unreadable:
    if isinstance(values, Mapping):
        return values
    return Unreadable(
        f"the row is of type {type(values).__name__}, expected a dict from columns to values; a DataFrame has them as "
        "frame.to_dict('records')"
    )


def _read_csv(path: str, columns: Sequence[str]) -> Iterator[Entry]:
    with open_csv(path) as reader:
        header, rows = next(filter(None, reader), []), chain[list[str]](reader)
        if columns:
            names, columns = ([field.strip().casefold() for field in each] for each in (header, columns))
            has_header = set(columns) <= set(names)
            header, rows = (names, rows) if has_header else (columns, chain([header], rows))
        _check_header(header, path)
        for row in rows:
            if not row:
                continue
            place = f"{path}:{reader.line_num}"
            if len(row) == len(header):
                yield place, dict(zip(header, row, strict=True))
            else:
                yield place, Unreadable(f"the row has {len(row)} fields, expected {len(header)}: {', '.join(header)}")


def _check_header(names: Sequence[str], path: str) -> None:
    for name in sorted(set[str]().union(*COLUMNS.values())):
        if names.count(name) > 1:
            raise TrainingDataError(f"{path} has {names.count(name)} columns {name!r}; rename all but one")


def _read_jsonl(path: str) -> Iterator[Entry]:
    for place, line in read_file_lines(path):
        if isinstance(line, Unreadable):
            yield place, line
        elif line.strip():
            try:
                values = json.loads(line, object_pairs_hook=_build_object)
            except (ValueError, RecursionError) as exc:
                yield place, Unreadable(f"the line cannot be read as JSON ({exc})")
            else:
                yield place, values if isinstance(values, dict) else Unreadable("the line is not a JSON object")


def _build_object(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name occurs twice in an object")
    return values


def _read_parquet(path: str) -> Iterator[Entry]:
    with open_parquet(path, path) as file:
        _check_header(file.schema_arrow.names, path)
        try:
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from ((f"{path}:{number}", row) for number, row in enumerate(rows, 1))
        except (OSError, ValueError) as exc:  # pyarrow raises both
            raise UsageError(f"{path} is damaged ({exc}); write it again") from exc


def _read_classes(path: str, towers: Sequence[TowerName]) -> Iterator[Entry]:
    """Yield the files of each class. The class is what the ``*`` of a pattern stands for."""
    if list(towers) not in (["image"], ["mesh"]):
        raise UsageError(f"{path} is a folder of classes, which are for images and meshes; give texts in a file")
    parts = Path(path if "*" in path else Path(path) / "*").parts
    if "".join(parts).count("*") != 1 or "*" not in parts:
        raise UsageError(f"{path} has another pattern than one folder `*`, such as 'shapes/*/train'")
    at = parts.index("*")
    parent, suffixes = Path(*parts[:at]), folder_suffixes(towers[0])
    found = [each for each in sorted(parent.glob("*")) if not each.name.startswith(".")]
    classes = {each.name: each.joinpath(*parts[at + 1 :]) for each in found if each.is_dir()}
    if classes and {name.casefold() for name in classes} <= _SPLITS:
        raise UsageError(
            f"{parent} has the folders {', '.join(classes)}, which are parts of the data and no classes; give one of "
            "them, and another by --eval"
        )
    for each in found:
        if each.is_file() and file_suffix(each.name) in suffixes:
            yield str(each), Unreadable("the file lies in no folder of a class")
    for name, folder in classes.items():
        for file in walk_folder(str(folder)) if folder.is_dir() else ():
            if file_suffix(file) in suffixes:
                yield file, {"item": file, "label": name}


def _find_kind(name: str, entries: Sequence[Entry], accepted: Sequence[DataKind]) -> DataKind:
    expected = " or ".join(",".join(COLUMNS[kind]) for kind in accepted)
    first = next((values for _, values in entries if not isinstance(values, Unreadable)), None)
    if first is None:
        reasons = describe_bad([(place, row.reason) for place, row in entries if isinstance(row, Unreadable)])
        raise TrainingDataError(f"{name} has no rows of {expected}" + f":\n{reasons}" * bool(reasons))
    fitting = _find_fitting(first, accepted)
    if {"labels", "pairs"} <= set(fitting):
        raise TrainingDataError(f"{name} has the columns item,label and a,b; leave out one of these two kinds")
    if {"scores", "triplets"} <= set(fitting):
        raise TrainingDataError(f"{name} has the columns score and negative; leave out one of them")
    if fitting:
        _refuse_negatives(name, first, fitting[0])
        return fitting[0]
    found = ", ".join(map(str, first))
    advice = "; if the first row of a CSV is data, name the columns with --columns"
    raise TrainingDataError(f"{name} has the columns {found:.200}; this model takes {expected}{advice}")


def _refuse_negatives(name: str, values: Mapping[str, object], kind: DataKind) -> None:
    """Refuse the columns of wrong answers that pairs, triplets or captions do not take: else they would be ignored."""
    numbered = [str(column) for column in values if re.fullmatch(r"negative_\d+", str(column))]
    if kind in ("pairs", "triplets") and numbered:
        raise TrainingDataError(
            f"{name} has the columns {', '.join(numbered):.200}; a row takes one wrong answer, in the column negative: "
            "write a row for each of them"
        )
    if kind == "captions" and (numbered or "negative" in values):
        raise TrainingDataError(f"{name} has a column of negatives, which captions do not take; leave it out")


def _find_fitting(values: Mapping[str, object], accepted: Sequence[DataKind]) -> list[DataKind]:
    return [kind for kind in accepted if all(column in values for column in COLUMNS[kind])]


def _read_row(
    place: str, values: Mapping[str, object], kind: DataKind, accepted: Sequence[DataKind]
) -> Row | Unreadable:
    names = COLUMNS[kind]
    own = _find_fitting(values, accepted)
    if own and own[0] != kind:
        return Unreadable(
            f"the row has the columns {','.join(COLUMNS[own[0]])}, and the first row has {','.join(names)}"
        )
    items = []
    for name in names[: _count_items(kind)]:
        value = values.get(name)
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str) or not value.strip():
            return Unreadable(f"{name!r} is {'no text' if value and not isinstance(value, str) else 'empty'}")
        if any("\ud800" <= character <= "\udfff" for character in value):
            return Unreadable(f"{name!r} is not UTF-8; convert the file")
        items.append(value)
    target: str | float | None = None
    if kind == "labels":
        label = values.get("label")
        target = str(label).strip()
        if not target or label is None or (isinstance(label, float) and math.isnan(label)):  # as pandas says missing
            return Unreadable("'label' is empty")
    elif kind == "scores":
        try:
            target = float(str(values.get("score")))
        except ValueError:
            return Unreadable(f"'score' is {values.get('score')!r}, not a number")
        if not math.isfinite(target):
            return Unreadable(f"'score' is {target}")
    return Row(place=place, items=tuple(items), target=target)


def number_labels(rows: Iterable[Row]) -> list[int]:
    """Return the number of each row's label, from 0 in the order of their appearance."""
    numbers: dict[object, int] = {}
    return [numbers.setdefault(row.target, len(numbers)) for row in rows]
