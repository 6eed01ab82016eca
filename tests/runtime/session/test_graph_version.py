"""Graphs that are too new are told from damaged ones by ONNX Runtime's messages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from runtime.session.graph_version import find_missing_support


def _refusal(model: bytes) -> str:
    with pytest.raises(Exception, match="ONNXRuntimeError") as caught:
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return str(caught.value)


def _graph(*, opset: int = 18, ir_version: int = 10, op: str = "Relu", domain: str = "") -> bytes:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "embedding")]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["embedding"], domain=domain)], "g", ends[:1], ends[1:])
    opsets = [
        helper.make_opsetid(name, version) for name, version in {"": opset, domain: 1 if domain else opset}.items()
    ]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("changes", "need"),
    [
        ({"opset": 99}, r"opset 99 and it knows [0-9]+"),
        ({"ir_version": 99}, r"IR version 99 and it knows [0-9]+"),
        ({"op": "NewOperator"}, "the operator NewOperator of opset 18"),
        ({"op": "NewOperator", "domain": "com.microsoft"}, "the operator com.microsoft:NewOperator"),
    ],
)
def test_a_graph_that_is_too_new_is_recognized(changes: dict[str, Any], need: str) -> None:
    found = find_missing_support(_refusal(_graph(**changes)))
    assert found is not None
    assert re.fullmatch(need, found)


@pytest.mark.parametrize("damage", [b"garbage", b"", _graph()[:20]])
def test_a_damaged_graph_is_not_recognized_as_too_new(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(damage)
    with pytest.raises(Exception, match="ONNXRuntimeError") as caught:
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert find_missing_support(str(caught.value)) is None


def test_a_current_graph_loads() -> None:
    assert onnxruntime.InferenceSession(_graph(), providers=["CPUExecutionProvider"]).get_inputs()[0].name == "x"
