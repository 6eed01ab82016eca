"""Operators are read from a file, and CUDA graphs are refused by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from runtime.artifact.graph_operators import read_operators
from runtime.errors import ProviderError
from runtime.session.open_graph import check_recordable

LOOP = """
<ir_version: 9, opset_import: ["": 18]>
counted (float[batch] x) => (float[batch] embedding) {
    count = Constant <value_int = 3> ()
    embedding = Loop <body = once (int64 step, bool goes_on, float[batch] before)
        => (bool still, float[batch] after) { still = Identity(goes_on) after = Sinh(before) }> (count, , x)
}
"""


def test_the_operators_are_those_of_the_onnx_package(exported_text: Path) -> None:
    path = exported_text / "text.onnx"
    assert read_operators(path) == {node.op_type for node in onnx.load(path).graph.node}


def test_a_graph_with_a_loop_cannot_be_recorded(tmp_path: Path) -> None:
    path = tmp_path / "loop.onnx"
    onnx.save(parser.parse_model(LOOP), path)
    assert read_operators(path) == {"Constant", "Loop"}
    with pytest.raises(ProviderError, match=r"cuda_graphs cannot record .*loop.onnx: it has the operator Loop; leave"):
        check_recordable(path)


def test_weights_and_other_fields_are_skipped(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.arange(300, dtype=np.float32), "Loop")
    node = helper.make_node("Add", ["x", "Loop"], ["y"], name="Loop", doc_string="If", domain="")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [300]) for name in "xy")
    onnx.save(helper.make_model(helper.make_graph([node], "Scan", [x], [y], [weight])), tmp_path / "toy.onnx")
    assert read_operators(tmp_path / "toy.onnx") == {"Add"}
    check_recordable(tmp_path / "toy.onnx")


@pytest.mark.parametrize("content", [b"", b"\x3a\xff\xff", b"no protobuf at all"], ids=["empty", "cut", "other"])
def test_a_damaged_file_is_left_to_onnxruntime(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "toy.onnx").write_bytes(content)
    assert read_operators(tmp_path / "toy.onnx") == frozenset()
