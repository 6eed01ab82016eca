from __future__ import annotations

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


def test_the_users_items_are_evenly_spaced_and_split(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(400)]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts))
    dataset = load_calibration_dataset("text", path, 20)
    assert dataset.source == str(path)
    assert [*dataset.calibration, *dataset.held_out] == [*texts[:400:20], *texts[10:400:20]]


def test_too_few_or_wrong_items_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    with pytest.raises(UsageError, match=r"holds no file that ends in \.jpg"):
        load_calibration_dataset("image", folder, 32)
    for number in range(31):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
    with pytest.raises(UsageError, match="holds 31 items, where 32 are needed"):
        load_calibration_dataset("image", folder, 32)
    with pytest.raises(UsageError, match=r"holds no file that ends in \.txt"):
        load_calibration_dataset("text", folder, 32)
    with pytest.raises(UsageError, match="there is no file"):
        load_calibration_dataset("text", tmp_path / "no.txt", 32)
    (tmp_path / "bad.txt").write_bytes(b"\xff\n" * 40)
    with pytest.raises(UsageError, match=r"cannot be used for calibration: .*bad\.txt:1: the line is not UTF-8"):
        load_calibration_dataset("text", tmp_path / "bad.txt", 32)
    with pytest.raises(UsageError, match="15 items are too few"):
        load_calibration_dataset("text", None, 15)
