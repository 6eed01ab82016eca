from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exporters.calibration.dataset import load_corpus
from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError


def _key(item: object) -> bytes:
    return item.encode() if isinstance(item, str) else np.asarray(item).tobytes()


@pytest.mark.parametrize("kind", ["text", "image", "mesh"])
def test_what_every_machine_has_is_always_the_same_and_no_item_in_both_halves(kind: TowerName) -> None:
    corpus, again = load_corpus(kind, None, 20), load_corpus(kind, None, 20)
    assert (len(corpus.calibration), len(corpus.held_out)) == (20, 20)
    calibration, held_out = {*map(_key, corpus.calibration)}, {*map(_key, corpus.held_out)}
    assert (len(calibration), len(held_out)) == (20, 20), "the items differ"
    assert not calibration & held_out
    assert [*map(_key, again.calibration)] == [*map(_key, corpus.calibration)]


def test_the_users_own_are_split_and_taken_from_all_over(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(400)]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts))
    corpus = load_corpus("text", path, 20)
    assert corpus.source == str(path)
    assert [*corpus.calibration, *corpus.held_out] == [*texts[:400:20], *texts[10:400:20]]


def test_too_few_or_wrong_items_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    with pytest.raises(UsageError, match=r"holds no file that ends in \.jpg"):
        load_corpus("image", folder, 32)
    for number in range(31):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
    with pytest.raises(UsageError, match="holds 31 items, where 32 are needed"):
        load_corpus("image", folder, 32)
    with pytest.raises(UsageError, match=r"holds no file that ends in \.txt"):
        load_corpus("text", folder, 32)
    with pytest.raises(UsageError, match="there is no file"):
        load_corpus("text", tmp_path / "no.txt", 32)
    (tmp_path / "bad.txt").write_bytes(b"\xff\n" * 40)
    with pytest.raises(UsageError, match=r"cannot be used for calibration: .*bad\.txt:1: the line is not UTF-8"):
        load_corpus("text", tmp_path / "bad.txt", 32)
    with pytest.raises(UsageError, match="15 items are too few"):
        load_corpus("text", None, 15)
