"""Optimizations and settings that a session applies to its graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import runtime
from exporters.calibration.activations import open_session
from runtime.array_types import Array
from runtime.session.provider_options import CpuOptions
from runtime.session.providers import PROVIDERS
from runtime.session.session import open_graph


def test_on_the_cpu_no_addition_is_fused_into_a_normalisation(
    exported_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fused operator takes three times as long on a CPU."""
    real, made = onnxruntime.InferenceSession, tmp_path / "made.onnx"

    def open_and_keep(path: str, options: Any, **others: Any) -> onnxruntime.InferenceSession:
        options.optimized_model_filepath = str(made)
        return real(path, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_and_keep)
    runtime.load(exported_text, provider="cpu", variant="fp32")
    operators = {node.op_type for node in onnx.load(made, load_external_data=False).graph.node}
    assert "LayerNormalization" in operators
    assert "SkipLayerNormalization" not in operators
    real(str(exported_text / "text.onnx"), _keeping(made), providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in onnx.load(made, load_external_data=False).graph.node}
    assert "SkipLayerNormalization" in operators, "ONNX Runtime fuses it by default"


def _keeping(path: Path) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    return options


def _open_for_the_runtime(path: Path) -> onnxruntime.InferenceSession:
    return open_graph(path, PROVIDERS["cpu"], CpuOptions(), 1)


@pytest.mark.parametrize("open_on_cpu", [_open_for_the_runtime, open_session], ids=["runtime", "exporters"])
def test_the_largest_8_bit_products_are_exact_on_every_cpu(open_on_cpu: Any, tmp_path: Path) -> None:
    """On a CPU without VNNI, ONNX Runtime saturates sums of two products at 16 bits by default."""
    signs = np.random.default_rng(0).choice([-1, 1], (64, 32))
    left, weights = np.full((4, 64), 255, np.uint8), (127 * signs).astype(np.int8)
    session = open_on_cpu(_integer_product(tmp_path / "product.onnx", weights))
    exact = left.astype(np.int32) @ weights.astype(np.int32)
    np.testing.assert_array_equal(session.run(None, {"x": left})[0], exact)
    assert session.get_session_options().get_session_config_entry("session.x64quantprecision") == "1"


def _integer_product(path: Path, weights: Array) -> Path:
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["batch", len(weights)])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["batch", weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
