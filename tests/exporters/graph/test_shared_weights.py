"""Test that graphs share weights in a file without a change of their values, and only where it pays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from exporters.graph import shared_weights
from exporters.graph.onnx_file import find_second_file
from exporters.graph.shared_weights import SharedWeights
from runtime.array_types import Array
from tests.exporters.toy_graphs import normal, write_text_graph

TABLE, OTHER = normal(65, 65), normal(65, 65, seed=1)
GRAPH = """toy (float[batch, 65] x) => (float[batch, 65] embedding) {
    first = MatMul(x, table)
    second = MatMul(first, copy)
    embedding = MatMul(second, other)
}"""


@pytest.fixture(autouse=True)
def _share_small_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_weights, "MIN_SHARED_BYTES", TABLE.nbytes)


def write(path: Path, other: Array, *, external: bool = False) -> Path:
    path.parent.mkdir(exist_ok=True)
    return write_text_graph(path, GRAPH, external=external, table=TABLE, copy=TABLE, other=other)


def weights(path: Path) -> dict[str, Array]:
    return {
        tensor.name: numpy_helper.to_array(tensor, str(path.parent)) for tensor in onnx.load(path).graph.initializer
    }


def test_common_weights_are_stored_once_and_differing_ones_stay_inside(tmp_path: Path) -> None:
    base, variant = write(tmp_path / "g.onnx", OTHER), write(tmp_path / "v.onnx", -OTHER)
    before = {path: weights(path) for path in (base, variant)}
    os.link(base, tmp_path / "link.onnx")
    shared = SharedWeights(base)
    assert shared.share(variant) == "g.onnx.data"
    assert find_second_file(base) is None, "before it is known whether the variant passes"
    assert shared.finish(used=True) == "g.onnx.data"
    size = (tmp_path / "g.onnx.data").stat().st_size
    assert size == 5 * 4096 + OTHER.nbytes, "the two equal tables are one, and the next begins at a page"
    assert base.stat().st_size < 1000 < OTHER.nbytes < variant.stat().st_size < OTHER.nbytes + 1000
    assert find_second_file(tmp_path / "link.onnx") is None, "the folder it was linked from is unchanged"
    for path, expected in before.items():
        for name, array in weights(path).items():
            np.testing.assert_array_equal(array, expected[name])
    again = SharedWeights(base)
    data = (tmp_path / "g.onnx.data").read_bytes()
    assert again.share(write(tmp_path / "w.onnx", OTHER)) == again.finish(used=False) == "g.onnx.data"
    assert (tmp_path / "g.onnx.data").read_bytes() == data


def test_without_a_variant_that_shares_there_is_no_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, variant = write(tmp_path / "g.onnx", OTHER), tmp_path / "v.onnx"
    write_text_graph(variant, GRAPH, table=-TABLE, copy=-TABLE, other=-OTHER)
    contents = base.read_bytes(), variant.read_bytes()
    shared = SharedWeights(base)
    assert shared.share(variant) is None
    assert shared.finish(used=False) is None
    monkeypatch.setattr(shared_weights, "MIN_SHARED_BYTES", 2**20)
    assert not SharedWeights(base).path.exists()
    assert (base.read_bytes(), variant.read_bytes()) == contents
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.onnx", "v.onnx"]


def test_a_variant_with_a_file_of_its_own_shares_if_the_rest_fits_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lower limit stands in for protobuf's 2 GB."""
    base, variant = write(tmp_path / "g.onnx", OTHER), write(tmp_path / "v.onnx", -OTHER, external=True)
    expected = weights(variant)
    shared = SharedWeights(base)
    monkeypatch.setattr(shared_weights, "EXTERNAL_DATA_THRESHOLD_BYTES", OTHER.nbytes - 1)
    assert shared.share(variant) is None
    assert find_second_file(variant) == "toy.data"
    monkeypatch.setattr(shared_weights, "EXTERNAL_DATA_THRESHOLD_BYTES", OTHER.nbytes)
    assert shared.share(variant) == "g.onnx.data"
    assert not (tmp_path / "toy.data").exists()
    for name, array in weights(variant).items():
        np.testing.assert_array_equal(array, expected[name])
