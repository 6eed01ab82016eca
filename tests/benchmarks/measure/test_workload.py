"""Items fit their tower, come in all sizes, and give the arrays of a graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.measure.arrays_file import read_arrays
from benchmarks.measure.workload import Workload, load_items, load_own_items, pick_typical
from runtime.errors import UsageError
from runtime.preprocess.mesh.triangles import load_corners
from tests.benchmarks.measure.toys import text_workload, toy_target


@pytest.fixture(scope="module")
def texts(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return text_workload(toy_target(toy), tmp_path_factory.mktemp("texts"))


def test_each_kind_has_items_that_its_tower_takes(exported: Path, tmp_path: Path) -> None:
    workload = Workload(toy_target(exported), load_items("image", tmp_path))
    arrays = workload.write_feeds(tmp_path / "f.npz", 3, None)
    assert arrays["pixels"].shape == (3, 40, 40, 3)
    workload.write_parity_feeds(tmp_path / "j.npz", 5)
    assert [len(batch["pixels"]) for batch in read_arrays(tmp_path / "j.npz")] == [5, 5, 5, 5, 5, 5, 2]


@pytest.mark.parametrize("size", [1, 3, 8, 16, 32, 48])
def test_calls_of_every_size_have_the_same_items_equally_often(size: int, texts: Workload) -> None:
    calls = texts.calls(size)
    assert {len(call) for call in calls} == {size}
    counts = Counter(item for call in calls for item in call)
    assert len(counts) == 16
    assert len(set(counts.values())) == 1
    assert set(counts) == {item for call in texts.calls(1) for item in call}


def test_typical_items_have_all_lengths_in_mixed_order() -> None:
    picked = pick_typical(["x" * length for length in range(1, 257)], range(1, 257), 16)
    lengths = [len(text) for text in picked]
    assert sorted(lengths) == [9 + 16 * number for number in range(16)]
    assert lengths != sorted(lengths)


def test_the_runtime_reads_the_meshes(tmp_path: Path) -> None:
    items = load_items("mesh", tmp_path)
    assert len(items.items) == len(set(items.names)) == 64
    corners = load_corners(items.items[0])
    assert corners.shape == (2 * 48 * 24, 3, 3)


def test_own_items_are_taken_if_there_are_enough(tmp_path: Path) -> None:
    listing = tmp_path / "mine.txt"
    listing.write_text("\n".join(f"text {number}" for number in range(40)))
    items = load_own_items("text", listing)
    assert items.source == "mine.txt"
    assert len(items.items) == 40
    listing.write_text("one\ntwo")
    with pytest.raises(UsageError, match=r"has 2 items .*; at least 16 are needed"):
        load_own_items("text", listing)


def test_own_items_are_drawn_from_the_whole_file(tmp_path: Path) -> None:
    listing = tmp_path / "sorted.txt"
    listing.write_text("\n".join("x" * length for length in range(1, 1001)))
    items = load_own_items("text", listing)
    assert len(items.items) == 256
    assert max(items.sizes) > 900
    assert items == load_own_items("text", listing)


def test_short_own_texts_fill_the_requested_tokens(toy: Path, tmp_path: Path) -> None:
    listing = tmp_path / "mine.txt"
    listing.write_text("\n".join("abcdefghijklmnop"))
    workload = Workload(toy_target(toy), load_own_items("text", listing))
    arrays = workload.write_feeds(tmp_path / "feeds.npz", 3, 48)
    assert arrays["attention_mask"].shape == (3, 48)
    assert arrays["attention_mask"].all()


def test_texts_that_cannot_fill_the_requested_tokens_are_refused(texts: Workload, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"fill only \d+ of 4000 tokens; name longer ones with --items"):
        texts.write_feeds(tmp_path / "feeds.npz", 2, 4000)


def test_parity_items_are_padded_in_their_given_order(texts: Workload, tmp_path: Path) -> None:
    texts.write_parity_feeds(tmp_path / "alone.npz", 1)
    texts.write_parity_feeds(tmp_path / "together.npz", 8)
    alone, together = (read_arrays(tmp_path / f"{name}.npz") for name in ("alone", "together"))
    assert all(batch["attention_mask"].all() for batch in alone)
    assert any(not batch["attention_mask"].all() for batch in together)
    arrays = texts.write_feeds(tmp_path / "feeds.npz", 3, 8)
    assert arrays["input_ids"].shape == (3, 8)
    assert arrays["attention_mask"].all()
    assert len(np.unique(arrays["input_ids"], axis=0)) == 3
