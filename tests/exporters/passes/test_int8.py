from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.calibration.activations import Array, open_session, run_all, tensor_ranges
from exporters.errors import QuantizationError
from exporters.passes.int8 import StaticQuantizer, quantize_dynamic, quantize_static
from exporters.variants.sensitivity import find_sensitive, min_cosine
from runtime.artifact.variants import CalibrationMethod as Method

DIM = 32
LAYERS = ("first", "second", "third")


def _save(path: Path, nodes: Sequence[onnx.NodeProto], weights: dict[str, Array], shape: Sequence[str | int]) -> Path:
    output = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIM])]
    graph = helper.make_graph(
        list(nodes),
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        output,
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)  # the exporter, too, notes the shapes
    return path


def _weights(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) / np.float32(np.sqrt(shape[-1]))


@pytest.fixture
def residual(tmp_path: Path) -> Path:
    """Three products in a residual stream; a few entries of what goes into the second are huge."""
    nodes, weights, stream = [], {}, "x"
    for seed, name in enumerate(LAYERS):
        weights[f"{name}.weight"] = _weights(DIM, DIM, seed=seed)
        nodes.append(helper.make_node("Tanh", [stream], [f"{name}.in"], f"{name}.tanh"))
        source = f"{name}.in"
        if name == "second":
            weights["power"], weights["scale"] = np.array(99, np.float32), np.array(300, np.float32)
            nodes.append(helper.make_node("Pow", [source, "power"], ["rare"], "pow"))
            nodes.append(helper.make_node("Mul", ["rare", "scale"], ["huge"], "huge"))
            nodes.append(helper.make_node("Add", [source, "huge"], ["spread"], "spread"))
            source = "spread"
        nodes.append(helper.make_node("MatMul", [source, f"{name}.weight"], [f"{name}.out"], name))
        nodes.append(helper.make_node("Add", [f"{name}.in", f"{name}.out"], [f"{name}.sum"], f"{name}.add"))
        stream = f"{name}.sum"
    weights |= {"axes": np.array([1]), "head": _weights(DIM, DIM, seed=9), "bias": _weights(DIM)}
    nodes.append(helper.make_node("ReduceMean", [stream, "axes"], ["pooled"], "pool", keepdims=0))
    nodes.append(helper.make_node("MatMul", ["pooled", "head"], ["projected"], "head"))
    nodes.append(helper.make_node("Add", ["projected", "bias"], ["embedding"], "bias"))
    return _save(tmp_path / "residual.onnx", nodes, weights, ["batch", "sequence", DIM])


@pytest.fixture
def convolutions(tmp_path: Path) -> Path:
    """Two convolutions with a residual Add between them, and a mean at the end."""
    weights = {
        "w1": _weights(DIM, 3, 3, 3),
        "w2": _weights(DIM, DIM, 1, 1),
        "b": _weights(DIM),
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b"], ["c1"], "conv1"),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b"], ["c2"], "conv2"),
        helper.make_node("Add", ["c2", "r1"], ["sum"], "join"),
        helper.make_node("Relu", ["sum"], ["r2"], "relu2"),
        helper.make_node("ReduceMean", ["r2", "axes"], ["embedding"], "pool", keepdims=0),
    ]
    return _save(tmp_path / "convolutions.onnx", nodes, weights, ["batch", 3, 12, 12])


def _samples(count: int, seed: int, *shape: int) -> list[dict[str, Array]]:
    source = np.random.default_rng(seed)
    return [{"x": source.normal(size=(4, *(shape or (6, DIM)))).astype(np.float32)} for _ in range(count)]


def _vectors(graph: Path, samples: Sequence[dict[str, Array]]) -> Array:
    return run_all(open_session(graph, threads=1), samples, {})


def _optimized(graph: Path, path: Path) -> Counter[str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 3
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_static_stays_near_float(residual: Path, tmp_path: Path, method: Method) -> None:
    made = quantize_static(residual, tmp_path / "q.onnx", _samples(8, 1), method=method, float_nodes=["second"])
    held_out = _samples(4, 2)
    assert made.int8 == ("first", "third")
    assert made.float32 == ("second",)
    assert min_cosine(_vectors(tmp_path / "q.onnx", held_out), _vectors(residual, held_out)) > 0.99


def test_the_provider_computes_in_8_bits_and_keeps_the_residual_in_float(residual: Path, tmp_path: Path) -> None:
    quantize_static(residual, tmp_path / "q.onnx", _samples(8, 1), method="minmax")
    counts = _optimized(tmp_path / "q.onnx", tmp_path / "o.onnx")
    assert counts["MatMulIntegerToFloat"] == 3, counts
    assert counts["MatMul"] == counts["DequantizeLinear"] == 0
    assert counts["Gemm"] == 1, "the head, which the provider would compute in float from rounded weights"


@pytest.mark.parametrize("bias", [False, True])
def test_what_a_relu_follows_is_computed_in_8_bits_too(tmp_path: Path, bias: bool) -> None:
    """As in T5's feed-forward; ONNX Runtime would restore the weights in every run and multiply in float."""
    weights = {"up": _weights(DIM, 2 * DIM), "down": _weights(2 * DIM, DIM, seed=1), "axes": np.array([1])}
    between = "wide"
    nodes = [
        helper.make_node("Tanh", ["x"], ["in"], "tanh"),
        helper.make_node("MatMul", ["in", "up"], ["wide"], "first"),
    ]
    if bias:
        between, weights["bias"] = "biased", _weights(2 * DIM, seed=2)
        nodes.append(helper.make_node("Add", ["wide", "bias"], ["biased"], "bias"))
    nodes += [
        helper.make_node("Relu", [between], ["active"], "relu"),
        helper.make_node("MatMul", ["active", "down"], ["out"], "second"),
        helper.make_node("ReduceMean", ["out", "axes"], ["embedding"], "pool", keepdims=0),
    ]
    graph = _save(tmp_path / "feed_forward.onnx", nodes, weights, ["batch", "sequence", DIM])
    quantize_static(graph, tmp_path / "q.onnx", _samples(8, 1), method="minmax")
    counts = _optimized(tmp_path / "q.onnx", tmp_path / "o.onnx")
    assert counts["MatMulIntegerToFloat"] == 2, counts
    assert counts["DequantizeLinear"] == 0
    held_out = _samples(4, 2)
    assert min_cosine(_vectors(tmp_path / "q.onnx", held_out), _vectors(graph, held_out)) > 0.99


def test_convolutions_and_what_joins_them_are_fused(convolutions: Path, tmp_path: Path) -> None:
    samples = _samples(8, 1, 3, 12, 12)
    made = quantize_static(convolutions, tmp_path / "q.onnx", samples, method="minmax")
    counts = _optimized(tmp_path / "q.onnx", tmp_path / "o.onnx")
    assert set(made.int8) >= {"conv1", "conv2", "join"}
    assert (counts["QLinearConv"], counts["QLinearAdd"], counts["Relu"]) == (2, 1, 0)
    assert (counts["ReduceMean"], counts["DequantizeLinear"]) == (1, 1)
    assert min_cosine(_vectors(tmp_path / "q.onnx", samples), _vectors(convolutions, samples)) > 0.999


def test_a_row_does_not_depend_on_its_batch_unless_dynamic(residual: Path, tmp_path: Path) -> None:
    quantize_static(residual, tmp_path / "static.onnx", _samples(8, 1), method="minmax")
    quantize_dynamic(residual, tmp_path / "dynamic.onnx")
    batch = _samples(1, 3)[0]["x"] * np.array([1, 9, 3, 2], np.float32)[:, None, None]
    for name, same in (("static", True), ("dynamic", False)):
        together = _vectors(tmp_path / f"{name}.onnx", [{"x": batch}])[:1]
        alone = _vectors(tmp_path / f"{name}.onnx", [{"x": batch[:1]}])
        assert (
            np.allclose(together, alone, rtol=0, atol=1e-5) is same
        )  # the head is in float, whose kernels depend on the batch


@pytest.mark.parametrize("fault", ["scaled", "reversed"])
def test_a_wrong_scale_shows_in_the_cosine(residual: Path, tmp_path: Path, fault: str) -> None:
    path, samples = tmp_path / "q.onnx", _samples(8, 1)
    quantize_static(residual, path, samples, method="minmax")
    reference = _vectors(residual, samples)
    before = min_cosine(_vectors(path, samples), reference)
    model = onnx.load(path)
    scale = next(t for t in model.graph.initializer if list(t.dims) == [DIM] and t.name.endswith("_scale"))
    values = numpy_helper.to_array(scale)
    wrong = values * np.where(np.arange(DIM) % 2, 2, 1) if fault == "scaled" else values[::-1]
    scale.CopyFrom(numpy_helper.from_array(wrong.astype(np.float32), scale.name))
    onnx.save(model, path)
    assert min_cosine(_vectors(path, samples), reference) < before - 0.001


def test_the_layer_with_outliers_is_found_and_alone_left_in_float(residual: Path, tmp_path: Path) -> None:
    held_out = _samples(6, 2)
    with StaticQuantizer(residual, _samples(8, 1), method="minmax") as quantizer:
        assert set(quantizer.nodes) == set(LAYERS)
        found = find_sensitive(quantizer, held_out, floor=0.999, threads=1)
        quantizer.write(tmp_path / "q.onnx", found.float_nodes)
    assert found.float_nodes == ("second",), found
    assert found.costs[0].node == "second"
    assert found.costs[0].cost > 3 * found.costs[1].cost
    real = min_cosine(_vectors(tmp_path / "q.onnx", held_out), _vectors(residual, held_out))
    assert found.min_cosine == pytest.approx(real, abs=1e-6)
    assert real >= 0.999


def test_a_floor_out_of_reach_ends_with_the_costs(residual: Path) -> None:
    with StaticQuantizer(residual, _samples(8, 1), method="minmax") as quantizer:
        found = find_sensitive(quantizer, _samples(2, 2), floor=1.1, most=2, threads=1)
    assert len(found.float_nodes) == 2
    assert found.min_cosine < 1.1
    assert {cost.node for cost in found.costs} == set(LAYERS)


def test_costs_that_are_known_are_not_measured_again(residual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StaticQuantizer(residual, _samples(8, 1), method="minmax") as quantizer:
        first = find_sensitive(quantizer, _samples(2, 2), floor=1.1, most=2, threads=1)
        monkeypatch.setattr("exporters.variants.sensitivity._rank", None)
        again = find_sensitive(quantizer, _samples(2, 2), floor=1.1, most=2, costs=first.costs, threads=1)
    assert again == first


def test_nodes_are_measured_in_groups_where_there_are_many(residual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.variants.sensitivity._GROUPS", 2)
    with StaticQuantizer(residual, _samples(8, 1), method="minmax") as quantizer:
        hasty = find_sensitive(quantizer, _samples(2, 2), floor=1.1, most=1, budget_s=0, threads=1)
        patient = find_sensitive(quantizer, _samples(2, 2), floor=1.1, most=1, threads=1)
    assert [cost.alone for cost in hasty.costs].count(True) == 1
    assert all(cost.alone for cost in patient.costs)


def test_methods_differ_where_there_are_outliers(residual: Path) -> None:
    samples = _samples(8, 1)
    samples[0]["x"][0, 0, 0] = 12
    highest = {method: tensor_ranges(residual, ["Tanh"], samples, method)["x"][1] for method in get_args(Method)}
    assert highest["minmax"] == 12, highest
    assert highest["entropy"] < 10, highest
    assert len(set(highest.values())) == 3


def test_smoothing_leaves_the_float_results(residual: Path) -> None:
    samples = _samples(8, 1)
    with StaticQuantizer(residual, samples, method="minmax") as quantizer:
        prepared = quantizer._graph
        assert np.abs(_vectors(prepared, samples) - _vectors(residual, samples)).max() < 1e-5


def test_channels_that_stand_out_are_multiplied_in_float(tmp_path: Path) -> None:
    """They are large in a few rows only, as BERT's feed-forward is at a few words; all others would lose their bits."""
    spread = np.ones(DIM, np.float32)
    spread[[5, 20]] = 2000
    weights = {"spread": spread, "power": np.array(9, np.float32), "w": _weights(DIM, DIM), "axes": np.array([1])}
    nodes = [
        helper.make_node("Tanh", ["x"], ["even"], "tanh"),
        helper.make_node("Pow", ["even", "power"], ["rare"], "pow"),
        helper.make_node("Where", ["standing_out", "rare", "even"], ["mixed"], "where"),
        helper.make_node("Mul", ["mixed", "spread"], ["uneven"], "mul"),
        helper.make_node("MatMul", ["uneven", "w"], ["out"], "product"),
        helper.make_node("ReduceMean", ["out", "axes"], ["embedding"], "pool", keepdims=0),
    ]
    graph = _save(tmp_path / "f.onnx", nodes, weights | {"standing_out": spread > 1}, ["batch", "sequence", DIM])
    made = quantize_static(graph, tmp_path / "q.onnx", _samples(8, 1), method="minmax")
    assert made.int8 == ("product",), "the small product beside it is none that could be in 8 bits"
    held_out = _samples(4, 2)
    assert min_cosine(_vectors(tmp_path / "q.onnx", held_out), _vectors(graph, held_out)) > 0.99999
    initializers = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert initializers["product/outliers"].tolist() == [5, 20]
    assert _optimized(tmp_path / "q.onnx", tmp_path / "o.onnx")["MatMulIntegerToFloat"] == 1


def test_the_same_graph_gives_the_same_bytes(residual: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        quantize_static(residual, tmp_path / name, _samples(8, 1), method="minmax")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_errors_name_the_way_out(residual: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match=r"no samples.*give some"):
        quantize_static(residual, tmp_path / "q.onnx", [], method="minmax")
    with pytest.raises(QuantizationError, match="no samples"):
        quantize_static(residual, tmp_path / "q.onnx", [{"x": np.zeros((0, 6, DIM), np.float32)}], method="minmax")
    with pytest.raises(QuantizationError, match=r"'kl'.*minmax, entropy"):
        quantize_static(residual, tmp_path / "q.onnx", _samples(1, 1), method="kl")  # type: ignore[arg-type]
    with pytest.raises(QuantizationError, match=r"no node fourth.*first, second, third"):
        quantize_dynamic(residual, tmp_path / "q.onnx", float_nodes=["fourth"])
    with pytest.raises(QuantizationError, match="cannot read"):
        quantize_dynamic(tmp_path / "none.onnx", tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()
