from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exporters.calibration.dataset import load_calibration_dataset
from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError


def _key(item: object) -> bytes:
    return item.encode() if isinstance(item, str) else np.asarray(item).tobytes()


@pytest.mark.parametrize("kind", ["text", "image", "mesh"])
def test_bundled_items_are_always_the_same_and_in_one_half_only(kind: TowerName) -> None:
    dataset, again = load_calibration_dataset(kind, None, 20), load_calibration_dataset(kind, None, 20)
    assert (len(dataset.calibration), len(dataset.held_out)) == (20, 20)
    calibration, held_out = {*map(_key, dataset.calibration)}, {*map(_key, dataset.held_out)}
    assert (len(calibration), len(held_out)) == (20, 20), "the items differ"
    assert not calibration & held_out
    assert [*map(_key, again.calibration)] == [*map(_key, dataset.calibration)]


def write_texts(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


@pytest.mark.parametrize("lines", [80, 159, 400])
def test_the_users_items_are_drawn_from_the_whole_file(lines: int, tmp_path: Path) -> None:
    path = write_texts(tmp_path / "texts.txt", [f"text {number}" for number in range(lines)])
    dataset, again = (load_calibration_dataset("text", path, 40) for _ in range(2))
    assert dataset.source == str(path)
    assert dataset == again
    assert (len({*dataset.calibration}), len({*dataset.held_out})) == (40, 40)
    assert not {*dataset.calibration} & {*dataset.held_out}
    for half in (dataset.calibration, dataset.held_out):
        numbers = [int(text.removeprefix("text ")) for text in half]
        assert min(numbers) < lines / 5
        assert max(numbers) > lines * 4 / 5


def test_a_file_that_alternates_is_not_split_by_its_alternation(tmp_path: Path) -> None:
    blanks = write_texts(tmp_path / "blanks.txt", [line for number in range(50) for line in (f"text {number}", " ")])
    dataset = load_calibration_dataset("text", blanks, 128)
    assert {*dataset.calibration, *dataset.held_out} == {f"text {number}" for number in range(50)}
    pairs = [line for number in range(50) for line in (f"question {number}", f"answer {number}")]
    dataset = load_calibration_dataset("text", write_texts(tmp_path / "pairs.txt", pairs), 128)
    for half in (dataset.calibration, dataset.held_out):
        assert {text.split()[0] for text in half} == {"question", "answer"}


def test_a_repetition_is_in_one_half_only(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "texts.txt", [f"{' ' * (number % 2)}text {number // 3}" for number in range(150)])
    dataset = load_calibration_dataset("text", path, 128)
    assert sorted(text.strip() for text in [*dataset.calibration, *dataset.held_out]) == sorted(
        f"text {number}" for number in range(50)
    )
    for number in range(66):
        Image.new("RGB", (4, 4), (number // 2, 0, 0)).save(tmp_path / f"{number}.png")
    dataset = load_calibration_dataset("image", tmp_path, 32)
    assert (len(dataset.calibration), len(dataset.held_out)) == (17, 16)
    for number in range(4):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(UsageError, match="holds 31 items without blank texts and repetitions, where 32 are needed"):
        load_calibration_dataset("image", tmp_path, 32)


def test_a_number_of_items_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "texts.txt", [f"text {number}" for number in range(41)])
    assert len(load_calibration_dataset("text", path, 500).calibration) == 21
    assert len(load_calibration_dataset("text", path, 20, exact=True).calibration) == 20
    with pytest.raises(
        UsageError, match=r"holds 41 items .*, where 1000 are needed: .*; give more items, or --items 20"
    ):
        load_calibration_dataset("text", path, 500, exact=True)


def test_a_file_of_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    paths = write_texts(tmp_path / "paths.txt", [str(tmp_path / f"{number}.png") for number in range(40)])
    with pytest.raises(UsageError, match=r"\.png \(.*paths\.txt:\d+\) cannot be used: No such file"):
        load_calibration_dataset("image", paths, 16)


def test_too_few_or_wrong_items_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    with pytest.raises(UsageError, match=r"holds no file that ends in \.jpg"):
        load_calibration_dataset("image", folder, 32)
    for number in range(31):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
    with pytest.raises(UsageError, match="holds 31 items without blank texts and repetitions, where 32 are needed"):
        load_calibration_dataset("image", folder, 32)
    with pytest.raises(UsageError, match=r"holds no file that ends in \.txt"):
        load_calibration_dataset("text", folder, 32)
    with pytest.raises(UsageError, match="there is no file"):
        load_calibration_dataset("text", tmp_path / "no.txt", 32)
    with pytest.raises(UsageError, match=r"there is no .*/no; give a UTF-8 \.txt file"):
        load_calibration_dataset("text", tmp_path / "no", 32)
    (tmp_path / "other.jsonl").write_text('{"body": "a"}\n' * 40)
    with pytest.raises(UsageError, match=r"jsonl:1: there is no 'text' among 'body'; give .* with the column `text`$"):
        load_calibration_dataset("text", tmp_path / "other.jsonl", 32)
    (tmp_path / "bad.txt").write_bytes(b"\xff\n" * 40)
    with pytest.raises(UsageError, match=r"cannot be used: .*bad\.txt:1: the line is not UTF-8"):
        load_calibration_dataset("text", tmp_path / "bad.txt", 32)
    with pytest.raises(UsageError, match="15 items are too few"):
        load_calibration_dataset("text", None, 15)
