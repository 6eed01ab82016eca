"""Optimizations and settings that a session applies to its graph."""

from __future__ import annotations

from contextlib import nullcontext
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
from runtime.machine import cpu
from runtime.session.open_graph import open_graph
from runtime.session.provider_options import CpuOptions, ProviderOptions, provider_of
from runtime.session.providers import PROVIDERS
from runtime.session.session import count_concurrent_batches


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


def test_too_little_memory_to_load_blames_no_file(exported_text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(runtime.OutOfMemoryError, match=r"too little memory to load .*text\.onnx"):
        runtime.load(exported_text, provider="cpu", variant="fp32")


@pytest.fixture(params=[_open_for_the_runtime, open_session], ids=["runtime", "exporters"])
def open_on_cpu(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_the_largest_8_bit_products_are_exact_on_every_cpu(open_on_cpu: Any, rows: int, tmp_path: Path) -> None:
    """On a CPU without VNNI, ONNX Runtime saturates sums of two products at 16 bits by default."""
    left, weights = np.full((rows, 64), 255, np.uint8), _largest_weights(64, 32)
    session = open_on_cpu(_integer_product(tmp_path / "product.onnx", weights))
    exact = left.astype(np.int32) @ weights.astype(np.int32)
    np.testing.assert_array_equal(session.run(None, {"x": left})[0], exact)


@pytest.mark.parametrize(("size", "groups"), [(1, 1), (3, 1), (3, 32)], ids=["pointwise", "whole", "depthwise"])
def test_the_largest_8_bit_convolutions_are_exact_on_every_cpu(
    open_on_cpu: Any, size: int, groups: int, tmp_path: Path
) -> None:
    weights = _largest_weights(32, 32 // groups, size, size)
    sums = 255 * weights.astype(np.int64).sum(axis=(1, 2, 3))
    scale = np.abs(sums).max() / 99.7  # no sum ends in the middle between two integers
    session = open_on_cpu(_integer_convolution(tmp_path / "convolution.onnx", weights, groups, scale))
    (found,) = session.run(None, {"x": np.full((2, 32, 9, 9), 255, np.uint8)})
    expected = np.broadcast_to((np.rint(sums / scale) + 128)[:, None, None], found.shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("flag", "unsigned"), [("avx2", True), ("avx512_vnni", False)])
def test_weights_are_unsigned_only_where_signed_ones_saturate(
    open_on_cpu: Any, flag: str, unsigned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsigned weights take most of VNNI's speed."""
    monkeypatch.setattr(cpu, "cpu_flags", lambda *_: frozenset({flag}))
    options = open_on_cpu(_integer_product(tmp_path / "product.onnx", _largest_weights(64, 32))).get_session_options()
    with nullcontext() if unsigned else pytest.raises(RuntimeError, match="does not have"):
        assert options.get_session_config_entry("session.x64quantprecision") == "1"


def _largest_weights(*shape: int) -> Array:
    return np.random.default_rng(0).choice(np.array([-127, 127], np.int8), shape)


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


def _integer_convolution(path: Path, weights: Array, groups: int, scale: float) -> Path:
    constants: dict[str, Array] = {
        "one": np.array(1, np.float32),
        "first": np.array(0, np.uint8),
        "w": weights,
        "middle": np.array(0, np.int8),
        "scale": np.array(scale, np.float32),
        "centre": np.array(128, np.uint8),
    }
    inputs = ["x", "one", "first", "w", "one", "middle", "scale", "centre"]
    shape = ["batch", weights.shape[1] * groups, "height", "width"]
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", inputs, ["y"], group=groups)],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, ["batch", len(weights), "rows", "columns"])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("options", "threads", "batches"),
    [
        (CpuOptions(), 4, 4),
        (CpuOptions(memory_limit_bytes=10**9), 4, 1),
        (runtime.OpenVinoOptions(), 4, 1),
        (runtime.CudaOptions(), 4, 2),
        (runtime.CudaOptions(), 1, 1),
        (runtime.CudaOptions(cuda_graphs=True), 4, 1),
        (runtime.TensorRtOptions(), 4, 2),
    ],
    ids=str,
)
def test_each_provider_has_a_default_number_of_batches_side_by_side(
    options: ProviderOptions, threads: int, batches: int
) -> None:
    assert count_concurrent_batches(PROVIDERS[provider_of(options)], options, threads) == batches
