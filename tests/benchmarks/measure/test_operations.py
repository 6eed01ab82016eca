"""Operations and bytes equal those computed by hand."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, ValueInfoProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from benchmarks.measure.operations import CountingError, count_work, variant_weight_bytes
from benchmarks.results.schema import Work
from runtime.artifact.manifest import Tower
from runtime.artifact.reader import read_manifest
from runtime.errors import InferenceError, UsageError

Weights = dict[str, np.ndarray[Any, Any]]


def info(name: str, shape: Sequence[int | str | None] | None, kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    return make_tensor_value_info(name, kind, shape)


def write(path: Path, nodes: Sequence[NodeProto], inputs: Sequence[ValueInfoProto], weights: Weights) -> Path:
    """Write a graph with the output ``y``, of any shape."""
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = make_graph(nodes, "toy", inputs, [info("y", None)], initializers)
    onnx.save(make_model(graph, ir_version=8, opset_imports=[make_opsetid("", 18)]), path)
    return path


def floats(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ones(shape, np.float32)


def test_a_product_of_matrices(tmp_path: Path) -> None:
    path = write(
        tmp_path / "g.onnx",
        [make_node("MatMul", ["x", "w"], ["z"]), make_node("Relu", ["z"], ["y"])],
        [info("x", ["batch", "rows", 5])],
        {"w": floats(5, 7)},
    )
    work = count_work(path, {"x": floats(2, 3, 5)}, weight_bytes=1000)
    assert work == Work(operations=2 * (2 * 3) * 5 * 7, read_bytes=1000 + 4 * 2 * 3 * 5, written_bytes=4 * 2 * 3 * 7)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_product_of_a_transposed_matrix(transposed: int, tmp_path: Path) -> None:
    path = write(
        tmp_path / "g.onnx",
        [make_node("Gemm", ["x", "w"], ["y"], transA=transposed, transB=1)],
        [info("x", ["a", "b"])],
        {"w": floats(7, 5)},
    )
    fed = floats(5, 3) if transposed else floats(3, 5)
    assert count_work(path, {"x": fed}, 0).operations == 2 * 3 * 5 * 7


def test_a_convolution_with_groups_stride_and_padding(tmp_path: Path) -> None:
    path = write(
        tmp_path / "g.onnx",
        [make_node("Conv", ["x", "w", "b"], ["y"], group=2, strides=[2, 2], pads=[1, 1, 1, 1])],
        [info("x", ["batch", 4, "height", "width"])],
        {"w": floats(6, 2, 3, 3), "b": floats(6)},
    )
    work = count_work(path, {"x": floats(3, 4, 9, 8)}, 0)
    assert work.operations == 2 * (3 * 6 * 5 * 4) * (2 * 3 * 3)  # 9 by 8 pixels become 5 by 4; 4 / 2 channels to each


def test_a_product_in_a_loop_counts_for_each_turn(tmp_path: Path) -> None:
    body = make_graph(
        [make_node("MatMul", ["before", "w"], ["after"]), make_node("Identity", ["go"], ["on"])],
        "body",
        [info("turn", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("before", None)],
        [info("on", [], TensorProto.BOOL), info("after", None)],
    )
    path = write(
        tmp_path / "g.onnx",
        [make_node("Loop", ["turns", "", "x"], ["y"], body=body)],
        [info("turns", [], TensorProto.INT64), info("x", ["batch", 4])],
        {"w": floats(4, 4)},
    )
    work = count_work(path, {"turns": np.array(11), "x": floats(3, 4)}, 0)
    assert work == Work(operations=11 * 2 * 3 * 4 * 4, read_bytes=8 + 48, written_bytes=48)


def test_an_unknown_product_is_an_error(tmp_path: Path) -> None:
    node = make_node("Einsum", ["x", "w"], ["y"], equation="ij,jk->ik")
    path = write(tmp_path / "g.onnx", [node], [info("x", [2, 3])], {"w": floats(3, 4)})
    with pytest.raises(CountingError, match="Einsum"):
        count_work(path, {"x": floats(2, 3)}, 0)


def test_inputs_that_do_not_fit_are_an_error(exported: Path) -> None:
    with pytest.raises(InferenceError, match=r"image\.onnx to count its operations"):
        count_work(exported / "image.onnx", {"pixels": np.zeros((1, 3, 3), np.uint8)}, 0)


def test_no_profile_is_left(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    work = count_work(exported / "image.onnx", {"pixels": np.zeros((2, 40, 40, 3), np.uint8)}, 0)
    first, second = 19 * 19 * 8 * 3 * 9, 9 * 9 * 12 * 8 * 9  # TinyCnn's convolutions, of 3 by 3 and stride 2
    assert work == Work(operations=2 * 2 * (first + second), read_bytes=2 * 40 * 40 * 3, written_bytes=2 * 12 * 4)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tower(exported: Path) -> Tower:
    return read_manifest(exported).towers["image"]


def weigh(folder: Path, tower: Tower) -> int:
    return variant_weight_bytes(folder, replace(tower, graph="g.onnx"), "fp32")


def test_weights_are_counted_as_they_are_stored(tower: Tower, tmp_path: Path) -> None:
    nodes = [
        make_node("DequantizeLinear", ["w", "scale"], ["floats"]),
        make_node("MatMul", ["x", "floats"], ["z"]),
        make_node("Add", ["z", "half"], ["y"]),
    ]
    weights: Weights = {"w": np.ones((5, 7), np.int8), "scale": np.array(1, np.float32), "half": floats(7)}
    write(tmp_path / "g.onnx", nodes, [info("x", ["batch", 5])], weights)
    assert weigh(tmp_path, tower) == 5 * 7 + 4 + 7 * 4


@pytest.mark.parametrize("quantized", [False, True])
def test_tables_whose_rows_are_gathered_are_left_out(quantized: bool, tower: Tower, tmp_path: Path) -> None:
    table = np.ones((1000, 6), np.int8) if quantized else floats(1000, 6)
    nodes = [
        *([make_node("DequantizeLinear", ["table", "scale"], ["floats"])] if quantized else []),
        make_node("Gather", ["floats" if quantized else "table", "ids"], ["rows"]),
        make_node("MatMul", ["rows", "w"], ["y"]),
    ]
    weights = {"table": table, "w": floats(6, 2)} | ({"scale": np.array(1, np.float32)} if quantized else {})
    write(tmp_path / "g.onnx", nodes, [info("ids", ["batch"], TensorProto.INT64)], weights)
    assert weigh(tmp_path, tower) == 6 * 2 * 4


def test_a_table_that_is_also_multiplied_is_read_whole(tower: Tower, tmp_path: Path) -> None:
    nodes = [make_node("Gather", ["table", "ids"], ["rows"]), make_node("MatMul", ["rows", "table"], ["y"])]
    write(tmp_path / "g.onnx", nodes, [info("ids", ["batch"], TensorProto.INT64)], {"table": floats(6, 6)})
    assert weigh(tmp_path, tower) == 6 * 6 * 4


def test_weights_in_a_separate_file_are_counted(tower: Tower, tmp_path: Path) -> None:
    nodes = [make_node("MatMul", ["x", "w"], ["y"])]
    path = write(tmp_path / "g.onnx", nodes, [info("x", ["batch", 50])], {"w": floats(50, 70)})
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="g.onnx.data", size_threshold=0)
    assert weigh(tmp_path, tower) == 50 * 70 * 4
    assert count_work(path, {"x": floats(1, 50)}, 0).operations == 2 * 50 * 70


def test_an_unknown_variant_is_named(exported: Path, tower: Tower) -> None:
    with pytest.raises(UsageError, match="'int8'; choose from fp32"):
        variant_weight_bytes(exported, tower, "int8")
