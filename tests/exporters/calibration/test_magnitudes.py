from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from exporters.calibration.magnitudes import infer_types, max_abs_values
from exporters.errors import GraphError
from runtime.array_types import Feeds
from tests.exporters.toy_graphs import feed_forward_graph, normal, write_text_graph

X = {"x": normal(3, 5, 8)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "toy.onnx"


def test_values_are_the_largest_over_all_batches(path: Path) -> None:
    write_text_graph(
        path, "toy (float[n] x) => (float[n] y) { a = Neg(x)\n y = Relu(a)\n i = Cast<to = 7>(a)\n j = Add(i, i) }"
    )
    batches = [{"x": np.array(values, np.float32)} for values in ([1, -3], [2, 2.5, 7], [0])]

    assert max_abs_values(path, batches) == {"a": 7.0, "y": 3.0}


def test_weights_may_be_in_a_second_file(path: Path) -> None:
    inside = max_abs_values(feed_forward_graph(path, 1.0), [X])
    assert max_abs_values(feed_forward_graph(path, 1.0, external=True), [X]) == inside
    assert inside.keys() == {"start", "wide", "hidden", "narrow", "sum", "last", "embedding"}


def test_mask_values_do_not_count(path: Path) -> None:
    write_text_graph(
        path,
        """toy (bool[n] keep, float[n] x) => (float[n] z) {
            mask = Where(keep, zero, lowest)
            y = Add(x, mask)
            z = Softmax(y)
        }""",
        zero=np.float32(0),
        lowest=np.finfo(np.float32).min,
    )
    batch = {"keep": np.array([True, False, True]), "x": np.array([1, -5, -2], np.float32)}

    assert max_abs_values(path, [batch]) == pytest.approx({"mask": 0, "y": 2, "z": 1 / (1 + np.exp(-3))})


def test_large_values_outside_masks_count(path: Path) -> None:
    write_text_graph(path, "toy (float[n] x) => (float[n] y) { y = Mul(x, x) }")
    assert max_abs_values(path, [{"x": np.array([1e9], np.float32)}])["y"] == pytest.approx(1e18)


@pytest.mark.parametrize("batches", [[], [{"y": np.zeros(3, np.float32)}]], ids=["none", "another input"])
def test_batches_that_do_not_fit_are_refused(path: Path, batches: list[Feeds]) -> None:
    write_text_graph(path, "toy (float[n] x) => (float[n] y) { y = Neg(x) }")
    with pytest.raises(GraphError, match="batches"):
        max_abs_values(path, batches)


def test_a_file_that_is_no_graph_is_refused(path: Path) -> None:
    onnx.save(onnx.ModelProto(), path)
    with pytest.raises(GraphError, match=r"toy\.onnx"):
        infer_types(path)
