"""One outsized batch does not keep its memory, and a limit splits batches by the memory that they take."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import runtime
from runtime.array_types import Feeds, Float32Array
from runtime.artifact.graph_layout import GraphLayout, read_layout
from runtime.artifact.reader import read_manifest
from runtime.errors import OutOfMemoryError
from runtime.inference import tower
from runtime.inference.memory import ItemMemory, MemoryLimit, estimate_memory
from runtime.session.session import Session
from tests.paths import ROOT
from tests.runtime.toy_artifact import write_artifact

MEASURE = """
import sys
import numpy as np
import psutil
import runtime
model = runtime.load(sys.argv[1], provider="cpu", threads=1)
rss = psutil.Process().memory_info
model.embed(["a b"])
tower = model.backend.towers["text"]
rows = tower.prepare(["a"]) * 4000
feeds = {name: np.ones((4000, 4096), np.int64) for name in ("input_ids", "attention_mask")}
tower.collate = lambda rows: feeds
before = rss().rss
tower.embed(rows)
print((rss().rss - before) / feeds["input_ids"].nbytes)
"""


@pytest.mark.process
def test_the_memory_of_an_outsized_batch_is_given_back(tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    artifact = write_artifact(tmp_path / "toy", max_length=4096, inputs=("input_ids", "attention_mask"))
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(artifact)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 0.2, "the graph needs at least half of its input, as float32"


LENGTHS = (3, 64, 5, 64, 64, 4, 64, 64, 22, 7)  # in tokens
ITEM = ItemMemory(per_length=1e6)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an artifact whose texts seem to take 1 MB for each token."""
    monkeypatch.setattr(tower, "estimate_memory", lambda folder, record: ITEM)
    return write_artifact(tmp_path / "toy", max_length=64)


def load(folder: Path, limit: int | None) -> runtime.Embedder:
    return runtime.load(folder, provider_options=runtime.CpuOptions(memory_limit_bytes=limit))


def test_a_limit_splits_batches_and_changes_no_vector(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, limit = ["a " * (length - 2) for length in LENGTHS], ITEM.batch_bytes(2, 64)
    shapes: list[tuple[int, ...]] = []
    run = Session.run

    def note(self: Session, feeds: Feeds, *arguments: Any, **options: Any) -> Float32Array:
        shapes.append(feeds["input_ids"].shape)
        return run(self, feeds, *arguments, **options)

    monkeypatch.setattr(Session, "run", note)
    expected = load(folder, None).embed(texts, batch_size=96)
    assert shapes == [(10, 64)]
    shapes.clear()
    np.testing.assert_array_equal(load(folder, limit).embed(texts, batch_size=96), expected)
    assert shapes == [(2, 64), (2, 64), (2, 64), (4, 7)]
    assert max(ITEM.batch_bytes(*shape) for shape in shapes) <= limit


def test_an_item_beyond_the_limit_is_refused_by_name(folder: Path) -> None:
    texts, model = ["a " * (length - 2) for length in LENGTHS], load(folder, ITEM.batch_bytes(1, 30))
    assert [failure.index for failure in model.embed(texts, on_error="skip").failures] == [1, 3, 4, 6, 7]
    with pytest.raises(runtime.ItemError, match=r"may take 68 MB .* memory_limit_bytes allows 34 MB; raise the limit"):
        model.embed(texts)


def test_the_estimate_goes_by_the_layout_of_the_graph(exported: Path, tmp_path: Path) -> None:
    manifest = read_manifest(exported)
    assert estimate_memory(exported, manifest.towers["image"]) == ItemMemory(fixed=1536 * 40 * 40)
    toy = write_artifact(tmp_path / "toy")
    assert estimate_memory(toy, read_manifest(toy).towers["text"]) == ItemMemory()


@pytest.mark.parametrize(
    ("item", "length", "count"),
    [
        (ItemMemory(fixed=1e6), 1, 6),
        (ItemMemory(per_length=1e5), 10, 6),
        (ItemMemory(per_length=1e5, per_pair=1e4), 10, 3),
        (ItemMemory(fixed=7e6), 1, 0),
    ],
)
def test_the_largest_batch_stays_within_the_limit(item: ItemMemory, length: int, count: int) -> None:
    assert item.largest_batch(10**7, length) == count
    assert (MemoryLimit(10**7, item).find_obstacle(length) is None) == (count > 0)
    sizes = [len(range(10)[part]) for part in MemoryLimit(10**7, item).split([1, *[length] * 9])]
    assert (sum(sizes), max(sizes)) == (10, max(1, count))


@pytest.mark.parametrize("attention", [True, False])
def test_the_layout_is_read_from_the_weights(tmp_path: Path, attention: bool) -> None:
    shapes = {"table": [300, 24], "up": [24, 64], "patches": [24, 3, 8, 8], "bias": [500], "block": [7, 9, 3, 3]}
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, bytes(4 * math.prod(shape)), raw=True)
        for name, shape in shapes.items()
    ]
    node = helper.make_node("Softmax" if attention else "Relu", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    onnx.save(helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], weights)), tmp_path / "a.onnx")
    assert read_layout(tmp_path / "a.onnx") == GraphLayout(width=24, patch=8, attention=attention)
    for damaged in (b"", b"\x3a\x7f"):
        (tmp_path / "a.onnx").write_bytes(damaged)
        with pytest.raises(runtime.IntegrityError, match="is not an ONNX graph"):
            read_layout(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    "message",
    [
        "BFCArena: Failed to allocate memory for requested buffer of size 4096",
        "bfc_arena.cc:360 AllocateRawInternal Available memory of 14360576 is smaller than requested bytes of 16777216",
        "CUDA failure 2: out of memory ; GPU=0",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "std::bad_alloc",
    ],
)
def test_a_batch_that_is_too_large_for_the_memory_is_halved(
    message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text {number}" for number in range(20)]
    model = runtime.load(write_artifact(tmp_path / "toy"), provider="cpu")
    expected = model.embed(texts)
    tower, sizes = model.backend.towers["text"], []  # type: ignore[attr-defined]

    class Full:
        def run(self, names: Any, feeds: Any, options: Any) -> Any:
            sizes.append(len(feeds["input_ids"]))
            if sizes[-1] > room:
                raise RuntimeError(message)
            return graph.run(names, feeds, options)

    run = Mock(wraps=tower.session.run)
    monkeypatch.setattr(tower.session, "run", run)
    graph, room = tower.session._sessions.take(tower.session._open_again, side_by_side=False), 6
    monkeypatch.setattr(tower.session._sessions, "take", lambda *_, **__: Full())
    np.testing.assert_array_equal(model.embed(texts), expected)
    assert sizes == [20, 10, 5, 5, 10, 5, 5]
    outsized = [call.kwargs["outsized"] for call in run.call_args_list]
    assert outsized == [False] + [True] * 6, "the memory of the halves is given back"
    assert "batch of 20" in caplog.text
    sizes.clear()
    np.testing.assert_array_equal(model.embed(texts), expected)
    model.embed(texts, batch_size=20)
    assert sizes == [5] * 8, "the smaller batches are planned from then on, whatever the batch_size"
    room = 0
    with pytest.raises(OutOfMemoryError, match="batch of 1"):
        model.embed(texts)
    tower.batch_sizes, tower.largest_cost = replace(tower.batch_sizes, budget=1), 1  # by another lane
    with pytest.raises(OutOfMemoryError, match="batch of 1"):
        tower.embed(tower.prepare(texts))
    assert (tower.batch_sizes.budget, tower.largest_cost) == (1, 1), "no lane undoes the smaller one of another"
