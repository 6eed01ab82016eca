from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from exporters.errors import QuantizationError
from exporters.graph.onnx_file import write_temporary_graph
from exporters.passes import int8, smoothquant
from exporters.passes.int8 import StaticQuantizer, quantize_dynamic
from exporters.passes.smoothquant import _Channels, spread_channels
from runtime.array_types import Array
from runtime.artifact.parity import row_cosines
from runtime.artifact.variants import CalibrationMethod as Method
from tests.exporters.toy_graphs import DIM, embed_batches, random_batches, random_weights, residual_graph, save_graph


@pytest.fixture
def residual(tmp_path: Path) -> Path:
    return residual_graph(tmp_path / "residual.onnx")


def convolution_graph(path: Path, axes: int) -> Path:
    """Write a graph of two convolutions along ``axes`` axes, a residual Add between them, and a mean at the end."""
    weights = {
        "w1": random_weights(DIM, 3, *[3] * axes),
        "w2": random_weights(DIM, DIM, *[1] * axes),
        "b": random_weights(DIM),
        "axes": np.arange(2, 2 + axes),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b"], ["c1"], "conv1"),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b"], ["c2"], "conv2"),
        helper.make_node("Add", ["c2", "r1"], ["sum"], "join"),
        helper.make_node("Relu", ["sum"], ["r2"], "relu2"),
        helper.make_node("ReduceMean", ["r2", "axes"], ["embedding"], "pool", keepdims=0),
    ]
    return save_graph(path, nodes, weights, ["batch", 3, *[12] * axes])


def quantize_static(
    graph: Path,
    output: Path,
    batches: list[dict[str, Array]],
    *,
    method: Method = "minmax",
    float_nodes: Collection[str] = (),
) -> tuple[str, ...]:
    """Write the int8 graph, and return the nodes that int8 can compute."""
    with StaticQuantizer(graph, batches, method=method) as quantizer:
        quantizer.write(output, float_nodes)
        return quantizer.nodes


def producer_kinds(graph: Path, name: str) -> set[str | None]:
    """Return the operator types before the inputs of a node, ``None`` for an initializer."""
    node = next(node for node in ir.load(graph).graph if node.name == name)
    producers = [value.producer() for value in node.inputs if value is not None]
    return {producer.op_type if producer else None for producer in producers}


def _optimized(graph: Path, path: Path) -> Counter[str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 3
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_static_int8_stays_near_float32(residual: Path, tmp_path: Path, method: Method) -> None:
    nodes = quantize_static(residual, tmp_path / "q.onnx", random_batches(8, 1), method=method, float_nodes=["second"])
    held_out = random_batches(4, 2)
    assert nodes == ("first", "second", "third")
    kinds = [producer_kinds(tmp_path / "q.onnx", name) for name in nodes]
    assert kinds == [{"DequantizeLinear"}, {"Mul", None}, {"DequantizeLinear"}]
    assert row_cosines(embed_batches(tmp_path / "q.onnx", held_out), embed_batches(residual, held_out)).min() > 0.99


def test_the_provider_computes_in_int8_and_keeps_the_residual_in_float(residual: Path, tmp_path: Path) -> None:
    quantize_static(residual, tmp_path / "q.onnx", random_batches(8, 1))
    counts = _optimized(tmp_path / "q.onnx", tmp_path / "o.onnx")
    assert counts["MatMulIntegerToFloat"] == 3, counts
    assert counts["MatMul"] == counts["DequantizeLinear"] == 0
    assert counts["Gemm"] == 1, "the head, which the provider would compute in float from rounded weights"


@pytest.mark.parametrize("bias", [False, True])
def test_a_product_before_a_relu_is_computed_in_int8(tmp_path: Path, bias: bool) -> None:
    """As in T5's feed-forward: ONNX Runtime would dequantize the weights in every run and multiply in float."""
    weights = {"up": random_weights(DIM, 2 * DIM), "down": random_weights(2 * DIM, DIM, seed=1), "axes": np.array([1])}
    between = "wide"
    nodes = [
        helper.make_node("Tanh", ["x"], ["in"], "tanh"),
        helper.make_node("MatMul", ["in", "up"], ["wide"], "first"),
    ]
    if bias:
        between, weights["bias"] = "biased", random_weights(2 * DIM, seed=2)
        nodes.append(helper.make_node("Add", ["wide", "bias"], ["biased"], "bias"))
    nodes += [
        helper.make_node("Relu", [between], ["active"], "relu"),
        helper.make_node("MatMul", ["active", "down"], ["out"], "second"),
        helper.make_node("ReduceMean", ["out", "axes"], ["embedding"], "pool", keepdims=0),
    ]
    graph = save_graph(tmp_path / "feed_forward.onnx", nodes, weights, ["batch", "sequence", DIM])
    quantize_static(graph, tmp_path / "q.onnx", random_batches(8, 1))
    counts = _optimized(tmp_path / "q.onnx", tmp_path / "o.onnx")
    assert counts["MatMulIntegerToFloat"] == 2, counts
    assert counts["DequantizeLinear"] == 0
    held_out = random_batches(4, 2)
    assert row_cosines(embed_batches(tmp_path / "q.onnx", held_out), embed_batches(graph, held_out)).min() > 0.99


@pytest.mark.parametrize("axes", [1, 2])  # of texts, of images
def test_convolutions_and_joining_nodes_are_fused(axes: int, tmp_path: Path) -> None:
    convolutions = convolution_graph(tmp_path / "convolutions.onnx", axes)
    batches = random_batches(8, 1, 3, *[12] * axes)
    nodes = quantize_static(convolutions, tmp_path / "q.onnx", batches)
    quantize_static(convolutions, tmp_path / "float.onnx", batches, float_nodes=["conv1", "conv2"])
    initializers = {each.name: each for each in onnx.load(tmp_path / "float.onnx").graph.initializer}
    for name in ("conv1", "conv2"):
        exact = numpy_helper.to_array(initializers[f"{name}/2/exact"])
        np.testing.assert_array_equal(exact, random_weights(DIM), "the bias of int8 is for int8 alone")
    counts = _optimized(tmp_path / "q.onnx", tmp_path / "o.onnx")
    assert set(nodes) >= {"conv1", "conv2", "join"}
    assert (counts["QLinearConv"], counts["QLinearAdd"], counts["Relu"]) == (2, 1, 0)
    assert (counts["ReduceMean"], counts["DequantizeLinear"]) == (1, 1)
    assert row_cosines(embed_batches(tmp_path / "q.onnx", batches), embed_batches(convolutions, batches)).min() > 0.999


def test_a_row_does_not_depend_on_its_batch_unless_dynamic(residual: Path, tmp_path: Path) -> None:
    quantize_static(residual, tmp_path / "static.onnx", random_batches(8, 1))
    quantize_dynamic(residual, tmp_path / "dynamic.onnx")
    batch = random_batches(1, 3)[0]["x"] * np.array([1, 9, 3, 2], np.float32)[:, None, None]
    for name, same in (("static", True), ("dynamic", False)):
        together = embed_batches(tmp_path / f"{name}.onnx", [{"x": batch}])[:1]
        alone = embed_batches(tmp_path / f"{name}.onnx", [{"x": batch[:1]}])
        close = np.allclose(together, alone, rtol=0, atol=1e-5)  # the kernels of the float head depend on the batch
        assert close is same


@pytest.mark.parametrize("fault", ["scaled", "reversed"])
def test_a_wrong_scale_shows_in_the_cosine(residual: Path, tmp_path: Path, fault: str) -> None:
    path, batches = tmp_path / "q.onnx", random_batches(8, 1)
    quantize_static(residual, path, batches)
    reference = embed_batches(residual, batches)
    before = row_cosines(embed_batches(path, batches), reference).min()
    model = onnx.load(path)
    scale = next(t for t in model.graph.initializer if list(t.dims) == [DIM] and t.name.endswith("_scale"))
    values = numpy_helper.to_array(scale)
    wrong = values * np.where(np.arange(DIM) % 2, 2, 1) if fault == "scaled" else values[::-1]
    scale.CopyFrom(numpy_helper.from_array(wrong.astype(np.float32), scale.name))
    onnx.save(model, path)
    assert row_cosines(embed_batches(path, batches), reference).min() < before - 0.001


def test_a_quantization_replaces_the_weights_file_of_the_last_one(residual: Path) -> None:
    sizes = []
    with StaticQuantizer(residual, random_batches(8, 1), method="minmax") as quantizer:
        for float_nodes in [quantizer.nodes[:1], quantizer.nodes[:2]] * 2:
            quantizer.quantize(float_nodes)
            (weights,) = quantizer._folder.glob("static.onnx?*")
            sizes.append(weights.stat().st_size)
    assert sizes[:2] == sizes[2:]


def test_smoothing_keeps_the_float_results(residual: Path, tmp_path: Path) -> None:
    batches = random_batches(8, 1)
    with StaticQuantizer(residual, batches, method="minmax") as quantizer:
        smoothed = write_temporary_graph(tmp_path / "smoothed.onnx", quantizer.model)
        assert np.abs(embed_batches(smoothed, batches) - embed_batches(residual, batches)).max() < 1e-5


def test_outlier_channels_are_multiplied_in_float(tmp_path: Path) -> None:
    """They are large in a few rows only, as in BERT's feed-forward at a few words; the others would lose their bits."""
    spread = np.ones(DIM, np.float32)
    spread[[5, 20]] = 2000
    weights = {"spread": spread, "power": np.array(9, np.float32), "w": random_weights(DIM, DIM), "axes": np.array([1])}
    nodes = [
        helper.make_node("Tanh", ["x"], ["even"], "tanh"),
        helper.make_node("Pow", ["even", "power"], ["rare"], "pow"),
        helper.make_node("Where", ["standing_out", "rare", "even"], ["mixed"], "where"),
        helper.make_node("Mul", ["mixed", "spread"], ["uneven"], "mul"),
        helper.make_node("MatMul", ["uneven", "w"], ["out"], "product"),
        helper.make_node("ReduceMean", ["out", "axes"], ["embedding"], "pool", keepdims=0),
    ]
    graph = save_graph(tmp_path / "f.onnx", nodes, weights | {"standing_out": spread > 1}, ["batch", "sequence", DIM])
    quantized = quantize_static(graph, tmp_path / "q.onnx", random_batches(8, 1))
    assert quantized == ("product",), "the product of the outliers is not quantized"
    held_out = random_batches(4, 2)
    assert row_cosines(embed_batches(tmp_path / "q.onnx", held_out), embed_batches(graph, held_out)).min() > 0.99999
    initializers = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert initializers["product/outliers"].tolist() == [5, 20]
    assert _optimized(tmp_path / "q.onnx", tmp_path / "o.onnx")["MatMulIntegerToFloat"] == 1


def uneven_graph(path: Path, spread: Array, outputs: int) -> Path:
    """Write a product by ``outputs`` columns whose input channels are spread by factors."""
    channels = len(spread)
    weights = {"widen": random_weights(DIM, channels), "spread": spread.astype(np.float32), "axes": np.array([1])}
    weights |= {"w": random_weights(channels, outputs, seed=1), "shrink": random_weights(outputs, DIM, seed=2)}
    nodes = [
        helper.make_node("MatMul", ["x", "widen"], ["wide"], "widen"),
        helper.make_node("Tanh", ["wide"], ["even"], "tanh"),
        helper.make_node("Mul", ["even", "spread"], ["uneven"], "mul"),
        helper.make_node("MatMul", ["uneven", "w"], ["out"], "product"),
        helper.make_node("ReduceMean", ["out", "axes"], ["pooled"], "pool", keepdims=0),
        helper.make_node("MatMul", ["pooled", "shrink"], ["embedding"], "head"),
    ]
    return save_graph(path, nodes, weights, ["batch", "sequence", DIM])


def int8_error(graph: Path, path: Path) -> float:
    quantize_static(graph, path, random_batches(8, 1), float_nodes=["widen"])
    held_out = random_batches(4, 2)
    return float(1 - row_cosines(embed_batches(path, held_out), embed_batches(graph, held_out)).mean())


def test_channels_that_stand_out_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = uneven_graph(tmp_path / "f.onnx", np.where(np.arange(DIM) % 16 == 5, 60, 1), 2 * DIM)
    with StaticQuantizer(graph, random_batches(8, 1), method="minmax") as quantizer:
        smoothed = write_temporary_graph(tmp_path / "smoothed.onnx", quantizer.model)
        parts = {str(v.name): v.const_value for v in quantizer.model.graph.initializers.values()}["uneven/parts"]
        held_out = random_batches(4, 2)
        np.testing.assert_allclose(embed_batches(smoothed, held_out), embed_batches(graph, held_out), atol=1e-4)
    assert parts is not None
    assert set(parts.numpy().tolist()) == {5, 21}
    split = int8_error(graph, tmp_path / "q.onnx")
    assert _optimized(tmp_path / "q.onnx", tmp_path / "o.onnx")["MatMulIntegerToFloat"] == 1
    monkeypatch.setattr(smoothquant, "_MAX_EXTRA", 0)
    assert split < 0.5 * int8_error(graph, tmp_path / "unsplit.onnx")


def test_the_wide_input_of_a_narrow_product_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smoothing a wide tensor costs more time than it saves; its outlier channels saturate in int8."""
    spread = np.where(np.arange(8 * DIM) % 100 == 7, 20, 1)
    graph = uneven_graph(tmp_path / "f.onnx", spread, DIM)
    error = int8_error(graph, tmp_path / "q.onnx")
    model = onnx.load(tmp_path / "q.onnx")
    assert not [node.name for node in model.graph.node if node.name == "uneven/smooth"]
    initializers = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    assert {7, 107, 207} <= set(initializers["product/outliers"].tolist())
    assert initializers["uneven_scale"] * 255 < 2, "the range is that of the other channels"
    assert error < 1e-4
    monkeypatch.setattr(int8, "spread_channels", lambda *arguments: spread_channels(*arguments) and {})
    assert int8_error(graph, tmp_path / "wide.onnx") > 10 * error, "with the range of all channels"


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu"])
def test_the_rows_of_a_feed_forward_layer_have_scales_of_their_own(
    tmp_path: Path, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the small values of most rows would share the steps of the largest row."""
    weights = {"up": random_weights(DIM, 8 * DIM), "down": random_weights(8 * DIM, DIM, seed=1), "axes": np.array([1])}
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["wide"], "widen"),
        helper.make_node(activation, ["wide"], ["active"], "activation"),
        helper.make_node("MatMul", ["active", "down"], ["out"], "product"),
        helper.make_node("ReduceMean", ["out", "axes"], ["embedding"], "pool", keepdims=0),
    ]
    graph = save_graph(tmp_path / "f.onnx", nodes, weights, ["batch", "sequence", DIM])
    sizes = np.array([0.3, 1, 3, 30], np.float32)[:, None, None]
    batches, held_out = ([{"x": sizes * each["x"]} for each in random_batches(8, seed)] for seed in (1, 2))

    def largest_error(path: Path) -> float:
        quantize_static(graph, path, batches, float_nodes=["widen"])
        return float(1 - row_cosines(embed_batches(path, held_out), embed_batches(graph, held_out)).min())

    error = largest_error(tmp_path / "rows.onnx")
    assert _optimized(tmp_path / "rows.onnx", tmp_path / "o.onnx")["MatMulIntegerToFloat"] == 1
    alone = [{"x": held_out[0]["x"][:1]}]
    together, single = (embed_batches(tmp_path / "rows.onnx", each)[0] for each in (held_out[:1], alone))
    np.testing.assert_allclose(together, single, rtol=0, atol=1e-5)
    monkeypatch.setattr(_Channels, "row_bounds", lambda *_: None)
    assert error < 0.1 * largest_error(tmp_path / "static.onnx")


def test_the_same_graph_gives_the_same_bytes(residual: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        quantize_static(residual, tmp_path / name, random_batches(8, 1))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_errors_say_what_to_do(residual: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match=r"no calibration batches.*give some"):
        quantize_static(residual, tmp_path / "q.onnx", [])
    with pytest.raises(QuantizationError, match="no calibration batches"):
        quantize_static(residual, tmp_path / "q.onnx", [{"x": np.zeros((0, 6, DIM), np.float32)}])
    with pytest.raises(QuantizationError, match=r"'kl'.*minmax, entropy"):
        quantize_static(residual, tmp_path / "q.onnx", random_batches(1, 1), method="kl")  # type: ignore[arg-type]
    with pytest.raises(QuantizationError, match=r"no node fourth.*first, second, third"):
        quantize_static(residual, tmp_path / "q.onnx", random_batches(1, 1), float_nodes=["fourth"])
    with pytest.raises(QuantizationError, match=r"cannot quantize the graph: .*none\.onnx"):
        quantize_dynamic(tmp_path / "none.onnx", tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize("level", [logging.NOTSET, logging.CRITICAL])
def test_logging_stays_as_the_caller_left_it(level: int, residual: Path, tmp_path: Path) -> None:
    logging.disable(level)
    try:
        quantize_dynamic(residual, tmp_path / "q.onnx")
        assert logging.root.manager.disable == level
    finally:
        logging.disable(logging.NOTSET)
