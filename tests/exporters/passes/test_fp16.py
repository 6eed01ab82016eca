from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from exporters.calibration.ranges import infer_types, measure_ranges
from exporters.errors import GraphError
from exporters.graph.attention_masks import LARGEST_HALF, MASK_FILLING
from exporters.passes.fp16 import HalfGraph, to_half

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
LOWEST = float(np.finfo(np.float32).min)
DIM = 8


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a graph in onnx's text format; arrays become its initializers, where the text names them."""

    def save(text: str, *, external: bool = False, **weights: Array) -> Path:
        model = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]>\n{text}')
        for name, array in weights.items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        for number, node in enumerate(model.graph.node):
            node.name = node.name or f"{node.op_type}_{number}"
        path = tmp_path / "toy.onnx"
        onnx.save(model, path, save_as_external_data=external, location="toy.data", size_threshold=0)
        return path

    return save


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> Array:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def run(model: ir.Model | Path, feeds: Feeds) -> Array:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    content = model.read_bytes() if isinstance(model, Path) else ir.to_proto(model).SerializeToString()
    outputs = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, dict(feeds))
    return np.asarray(outputs[0])


def run_rounding(model: ir.Model, feeds: Feeds) -> Array:
    """Runs each float16 node in float16, as a GPU does; onnxruntime's CPU provider takes float32 between them."""
    with np.errstate(all="ignore"):
        outputs: Any = ReferenceEvaluator(ir.to_proto(model)).run(None, dict(feeds))
    return np.asarray(outputs[0])


def convert(graph: Path, samples: Sequence[Feeds], limit: float | None = None) -> HalfGraph:
    half = to_half(graph, samples) if limit is None else to_half(graph, samples, limit=limit)
    onnx.checker.check_model(ir.to_proto(half.model), full_check=True)
    return half


def in_half(half: HalfGraph) -> set[str]:
    """The names of the nodes that give float16."""
    nodes = [node for node in half.model.graph if node.op_type != "Cast"]
    return {node.name or "" for node in nodes if node.outputs[0].dtype == ir.DataType.FLOAT16}


def distance(one: Array, other: Array) -> float:
    """One minus the smallest cosine."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return float((1 - (one * other).sum(axis=-1) / norms).max())


# T5's kind: a gate so wide that what it lets through is beyond float16, a projection that brings it back.
FEED_FORWARD = """toy (float[batch, tokens, 8] x) => (float[batch, 8] embedding) {
    start = MatMul(x, first)
    wide = MatMul(start, widen)
    hidden = Relu(wide)
    narrow = MatMul(hidden, shrink)
    sum = Add(narrow, start)
    last = MatMul(sum, final)
    axis = Constant <value_ints = [1]> ()
    embedding = ReduceMean <keepdims = 0> (last, axis)
}"""


def feed_forward(write: Callable[..., Path], scale: float, **kwargs: Any) -> Path:
    return write(
        FEED_FORWARD,
        first=normal(DIM, DIM, seed=1, scale=scale**0.35),
        widen=normal(DIM, 16, scale=scale**0.65, seed=2),
        shrink=normal(16, DIM, scale=scale**-0.65, seed=3),
        final=normal(DIM, DIM, seed=4),
        **kwargs,
    )


X = {"x": normal(3, 5, DIM)}


def test_ranges_are_the_largest_magnitudes_over_all_samples(write: Callable[..., Path]) -> None:
    path = write("toy (float[n] x) => (float[n] y) { a = Neg(x)\n y = Relu(a)\n i = Cast<to = 7>(a)\n j = Add(i, i) }")
    samples = [{"x": np.array(values, np.float32)} for values in ([1, -3], [2, 2.5, 7], [0])]

    assert measure_ranges(path, samples) == {"a": 7.0, "y": 3.0}


def test_ranges_of_a_graph_with_its_weights_beside_it(write: Callable[..., Path]) -> None:
    inside = measure_ranges(feed_forward(write, 1.0), [X])
    assert measure_ranges(feed_forward(write, 1.0, external=True), [X]) == inside
    assert inside.keys() == {"start", "wide", "hidden", "narrow", "sum", "last", "embedding"}


def test_the_filling_of_a_mask_is_no_range(write: Callable[..., Path]) -> None:
    path = write(
        """toy (bool[n] keep, float[n] x) => (float[n] z) {
            mask = Where(keep, zero, lowest)
            y = Add(x, mask)
            z = Softmax(y)
        }""",
        zero=np.float32(0),
        lowest=np.float32(LOWEST),
    )
    sample = {"keep": np.array([True, False, True]), "x": np.array([1, -5, -2], np.float32)}

    assert measure_ranges(path, [sample]) == pytest.approx({"mask": 0, "y": 2, "z": 1 / (1 + np.exp(-3))})


def test_what_is_no_mask_has_its_range_however_large(write: Callable[..., Path]) -> None:
    path = write("toy (float[n] x) => (float[n] y) { y = Mul(x, x) }")
    assert measure_ranges(path, [{"x": np.array([1e9], np.float32)}])["y"] == pytest.approx(1e18)


@pytest.mark.parametrize("samples", [[], [{"y": np.zeros(3, np.float32)}]], ids=["none", "another input"])
def test_samples_that_do_not_fit(write: Callable[..., Path], samples: list[Feeds]) -> None:
    path = write("toy (float[n] x) => (float[n] y) { y = Neg(x) }")
    with pytest.raises(GraphError, match="samples"):
        measure_ranges(path, samples)


def test_what_is_no_graph(tmp_path: Path) -> None:
    path = tmp_path / "toy.onnx"
    onnx.save(onnx.ModelProto(), path)
    with pytest.raises(GraphError, match=r"toy\.onnx"):
        infer_types(path)


def test_weights_and_activations_are_float16_and_the_rest_is_as_it_was(write: Callable[..., Path]) -> None:
    path = feed_forward(write, 1.0)
    half = convert(path, [X])

    assert half.float_nodes == ()
    assert in_half(half) == {"MatMul_0", "MatMul_1", "Relu_2", "MatMul_3", "Add_4", "MatMul_5"}
    weights = {value.name: value.dtype for value in half.model.graph.initializers.values()}
    assert set(weights.values()) == {ir.DataType.FLOAT16}
    assert [value.dtype for value in (*half.model.graph.inputs, *half.model.graph.outputs)] == [ir.DataType.FLOAT] * 2
    assert distance(run(half.model, X), run(path, X)) < 1e-6


def test_hidden_activations_beyond_float16_stay_float32(write: Callable[..., Path]) -> None:
    path = feed_forward(write, 1e5)
    assert measure_ranges(path, [X])["hidden"] > LARGEST_HALF
    half = convert(path, [X])

    assert half.float_nodes == ("MatMul_1", "Relu_2", "MatMul_3")
    assert in_half(half) == {"MatMul_0", "Add_4", "MatMul_5"}
    assert distance(run(half.model, X), run(path, X)) < 1e-6
    assert distance(run_rounding(half.model, X), run(path, X)) < 1e-5


def test_without_a_limit_they_overflow(write: Callable[..., Path]) -> None:
    half = convert(feed_forward(write, 1e5), [X], limit=np.inf)

    assert half.float_nodes == ()
    assert not np.isfinite(run_rounding(half.model, X)).all()


def test_values_too_small_for_float16_stay_float32(write: Callable[..., Path]) -> None:
    path = feed_forward(write, 1e-6)
    assert convert(path, [X]).float_nodes == ("MatMul_1", "Relu_2", "MatMul_3")


def test_weights_beside_the_graph_come_into_it(write: Callable[..., Path], tmp_path: Path) -> None:
    path = feed_forward(write, 1e5, external=True)
    expected = run(feed_forward(write, 1e5), X)
    path = feed_forward(write, 1e5, external=True)
    half = convert(path, [X])
    (tmp_path / "toy.data").unlink()

    assert distance(run(half.model, X), expected) < 1e-6


def test_an_epsilon_that_float16_does_not_have(write: Callable[..., Path]) -> None:
    path = write(
        """toy (float[batch, tokens, 8] x) => (float[batch, 8] embedding) {
            start = MatMul(x, first)
            sum = Add(start, epsilon)
            ratio = Div(start, sum)
            last = MatMul(ratio, final)
            axis = Constant <value_ints = [1]> ()
            embedding = ReduceMean <keepdims = 0> (last, axis)
        }""",
        first=normal(DIM, DIM),
        epsilon=np.float32(1e-9),
        final=normal(DIM, DIM),
    )
    feeds = {"x": np.where(np.arange(5)[None, :, None] == 2, 0, X["x"])}  # 0 / epsilon is 0, and 0 / 0 is not
    half = convert(path, [feeds])

    assert half.float_nodes == ("Add_1",)
    assert np.isfinite(run(half.model, feeds)).all()
    assert distance(run(half.model, feeds), run(path, feeds)) < 1e-6
    assert not np.isfinite(run(convert(path, [feeds], limit=np.inf).model, feeds)).all()


def test_a_bias_may_vanish(write: Callable[..., Path]) -> None:
    path = write(
        """toy (float[batch, tokens, 8] x) => (float[batch, 8] embedding) {
            start = MatMul(x, first)
            sum = Add(start, bias)
            last = MatMul(sum, final)
            axis = Constant <value_ints = [1]> ()
            embedding = ReduceMean <keepdims = 0> (last, axis)
        }""",
        first=normal(DIM, DIM),
        bias=normal(DIM, scale=1e-8),
        final=normal(DIM, DIM),
    )
    half = convert(path, [X])

    assert in_half(half) == {"MatMul_0", "Add_1", "MatMul_2"}
    assert distance(run(half.model, X), run(path, X)) < 1e-6


ATTENTION = """toy (float[batch, tokens, 8] x, int64[batch, tokens] mask) => (float[batch, 8] embedding) {
    start = MatMul(x, first)
    turned = Transpose <perm = [0, 2, 1]> (start)
    scores = MatMul(start, turned)
    %s
    masked = Add(scores, bias)
    masked_twice = Add(masked, bias)
    weights = Softmax <axis = -1> (masked_twice)
    mixed = MatMul(weights, start)
    axis = Constant <value_ints = [1]> ()
    embedding = ReduceMean <keepdims = 0> (mixed, axis)
}"""
BIASES = {
    "chosen": """keep = Cast <to = 9> (mask)
        wide = Unsqueeze(keep, one)
        bias = Where(wide, zero, lowest)""",
    "computed": """keep = Cast <to = 1> (mask)
        wide = Unsqueeze(keep, one)
        drop = Sub(unit, wide)
        bias = Mul(drop, lowest)""",
    "of constant nodes": """keep = Cast <to = 9> (mask)
        wide = Unsqueeze(keep, one)
        none = Constant <value = float {0}> ()
        bottom = Constant <value = float {-3.4028234e38}> ()
        bias = Where(wide, none, bottom)""",
}


@pytest.mark.parametrize("lowest", [LOWEST, -1e9])
@pytest.mark.parametrize("bias", BIASES)
def test_masks_stay_finite_and_masked(write: Callable[..., Path], bias: str, lowest: float) -> None:
    path = write(
        ATTENTION % BIASES[bias],
        first=normal(DIM, DIM),
        zero=np.float32(0),
        unit=np.float32(1),
        lowest=np.float32(lowest),
        one=np.array([1]),
    )
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    half = convert(path, [{"mask": mask, **X}])

    assert half.float_nodes == ()
    assert "Softmax_" in " ".join(in_half(half))
    feeds = {"mask": mask, "x": X["x"] * 3}
    assert distance(run(half.model, feeds), run(path, feeds)) < 1e-5
    nothing = {"mask": np.zeros_like(mask), **X}
    assert np.isfinite(run(half.model, nothing)).all()


def test_a_bound_that_nothing_reaches_bounds_nothing(write: Callable[..., Path]) -> None:
    path = write(
        """toy (float[batch, tokens, 8] x) => (float[batch, 8] embedding) {
            start = MatMul(x, first)
            clipped = Clip(start, lowest)
            last = MatMul(clipped, final)
            axis = Constant <value_ints = [1]> ()
            embedding = ReduceMean <keepdims = 0> (last, axis)
        }""",
        first=normal(DIM, DIM, scale=2000),
        lowest=np.float32(LOWEST),
        final=normal(DIM, DIM),
    )
    half = convert(path, [X], limit=40_000)

    assert np.abs(measure_ranges(path, [X])["start"]) > MASK_FILLING
    assert in_half(half) == {"MatMul_0", "Clip_1", "MatMul_2"}
    assert distance(run(half.model, X), run(path, X)) < 1e-6


def test_a_constant_that_both_precisions_share(write: Callable[..., Path]) -> None:
    path = write(
        """toy (float[batch, tokens, 8] x) => (float[batch, 8] embedding) {
            start = MatMul(x, shared)
            axis = Constant <value_ints = [1]> ()
            pooled = ReduceMean <keepdims = 0> (start, axis)
            embedding = MatMul(pooled, shared)
        }""",
        shared=normal(DIM, DIM),
    )
    half = convert(path, [X])
    assert {value.dtype for value in half.model.graph.initializers.values()} == {
        ir.DataType.FLOAT,
        ir.DataType.FLOAT16,
    }
    assert in_half(half) == {"MatMul_0"}


PIXELS = """toy (uint8[batch, 6, 6, 3] pixels) => (float[batch, 8] embedding) {
    planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
    floats = Cast <to = 1> (planes)
    unit = Div(floats, scale)
    centred = Sub(unit, mean)
    image = Div(centred, deviation)
    map = Conv <kernel_shape = [3, 3]> (image, weight)
    active = Relu(map)
    positive = Clip(active, eps)
    raised = Pow(positive, p)
    mean_raised = GlobalAveragePool(raised)
    root = Pow(mean_raised, inverse)
    embedding = Flatten(root)
}"""


def test_pixels_are_scaled_and_pooled_in_float32(write: Callable[..., Path]) -> None:
    path = write(
        PIXELS,
        scale=np.float32(255),
        mean=normal(1, 3, 1, 1),
        deviation=np.float32(0.2),
        weight=normal(DIM, 3, 3, 3),
        eps=np.float32(1e-6),
        p=np.float32(3),
        inverse=np.float32(1 / 3),
    )
    feeds = {"pixels": np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3), np.uint8)}
    half = convert(path, [feeds])

    assert half.float_nodes == ()
    assert in_half(half) == {"Conv_5", "Relu_6"}
    assert half.model.graph.inputs[0].dtype == ir.DataType.UINT8
    assert distance(run(half.model, feeds), run(path, feeds)) < 1e-6


# A network on points: what is nearest is decided by differences that float16 does not see.
POINTS = """toy (float[batch, points, 3] points) => (float[batch, 8] embedding) {
    first = Gather <axis = 1> (points, zeros)
    offset = Sub(points, first)
    square = Mul(offset, offset)
    sum = ReduceSum <keepdims = 0> (square, last)
    values, nearest = TopK <axis = 1, largest = 0> (sum, four)
    trips, distance = Loop (trip_count, , sum) <body = step (int64 i, bool go, float[batch, points] state)
        => (bool more, float[batch, points] next, float[batch, points] seen) {
            more = Identity(go)
            low = Constant <value = float {1e-9}> ()
            next = Add(state, low)
            seen = Mul(sum, low)
    }>
    index = Unsqueeze(nearest, last)
    chosen = GatherND <batch_dims = 1> (points, index)
    features = MatMul(chosen, first_weight)
    active = Relu(features)
    moved = MatMul(active, final)
    embedding = ReduceMax <keepdims = 0> (moved, middle)
}"""


def test_points_are_chosen_in_float32_and_loops_are_left_alone(write: Callable[..., Path]) -> None:
    path = write(
        POINTS,
        zeros=np.array([0]),
        last=np.array([-1]),
        middle=np.array([1]),
        four=np.array([4]),
        trip_count=np.int64(2),
        first_weight=normal(3, 8, scale=1e-3),
        final=normal(8, 8),
    )
    feeds = {"points": 1000 + normal(2, 40, 3, scale=1e-2)}
    half = convert(path, [feeds])

    assert in_half(half) == {"MatMul_8", "Relu_9", "MatMul_10"}
    loops = [node for model in (half.model, ir.load(path)) for node in ir.to_proto(model).graph.node]
    bodies = [node.attribute[0].g.SerializeToString() for node in loops if node.op_type == "Loop"]
    assert bodies[0] == bodies[1]
    assert distance(run(half.model, feeds), run(path, feeds)) < 1e-5


def test_a_float16_value_that_a_body_takes_is_cast_for_it(write: Callable[..., Path]) -> None:
    path = write(
        """toy (float[batch, tokens, 8] x) => (float[batch, 8] embedding) {
            start = MatMul(x, first)
            active = Relu(start)
            axis = Constant <value_ints = [1]> ()
            pooled = ReduceMean <keepdims = 0> (active, axis)
            embedding = If (yes) <
                then_branch = one () => (float[batch, 8] a) { sum = ReduceSum <keepdims = 0> (active, axis)
                    a = Add(pooled, sum) },
                else_branch = two () => (float[batch, 8] b) { b = Neg(pooled) }
            >
        }""",
        first=normal(DIM, DIM),
        yes=np.bool_(True),
    )
    half = convert(path, [X])
    assert distance(run(half.model, X), run(path, X)) < 1e-6


def test_the_statistics_of_a_norm_are_float32(write: Callable[..., Path]) -> None:
    path = write(
        """toy (float[batch, tokens, 8] x) => (float[batch, 8] embedding) {
            start = MatMul(x, first)
            square = Pow(start, two)
            axis = Constant <value_ints = [-1]> ()
            mean = ReduceMean(square, axis)
            shifted = Add(mean, epsilon)
            root = Sqrt(shifted)
            inverse = Reciprocal(root)
            scaled = Mul(start, inverse)
            weighted = Mul(weight, scaled)
            last = MatMul(weighted, final)
            middle = Constant <value_ints = [1]> ()
            embedding = ReduceMean <keepdims = 0> (last, middle)
        }""",
        first=normal(DIM, DIM, scale=100),
        two=np.float32(2),
        epsilon=np.float32(1e-6),
        weight=normal(DIM),
        final=normal(DIM, DIM),
    )
    half = convert(path, [X])

    assert half.float_nodes == ()
    assert in_half(half) == {"MatMul_0", "Mul_8", "MatMul_9"}
    assert distance(run(half.model, X), run(path, X)) < 1e-6


def test_what_decides_deep_in_the_network_and_what_only_looks_for_flaws(write: Callable[..., Path]) -> None:
    path = write(
        """toy (float[batch, tokens, 8] x) => (float[batch, 8] embedding) {
            distances = MatMul(x, first)
            largest, nearest = TopK <axis = 1> (distances, four)
            [head] start = MatMul(x, second)
            flaw = IsNaN(start)
            sound = Where(flaw, zero, start)
            chosen = GatherElements <axis = 1> (sound, nearest)
            last = MatMul(chosen, second)
            embedding = ReduceMean <keepdims = 0> (last, middle)
        }""",
        first=normal(DIM, DIM),
        second=normal(DIM, DIM, seed=1),
        four=np.array([4]),
        zero=np.float32(0),
        middle=np.array([1]),
    )
    half = convert(path, [X])

    assert in_half(half) == {"head", "Where_4", "GatherElements_5", "MatMul_6"}
    assert distance(run(half.model, X), run(path, X)) < 1e-5


FUSED = """toy (float[batch, tokens, 8] x) => (float[batch, 8] embedding) {
    start = MatMul(x, first)
    attended = com.microsoft.Attention <num_heads = 2> (start, qkv, qkv_bias, , , mask)
    normed, mean, deviation, sum = com.microsoft.SkipLayerNormalization <epsilon = 1e-12> (attended, start, gamma, beta)
    active = com.microsoft.BiasGelu(normed, beta)
    wide = MatMul(active, widen)
    narrow = MatMul(wide, shrink)
    last, other_mean, other_deviation, other_sum = com.microsoft.SkipLayerNormalization (narrow, sum, gamma, beta)
    axis = Constant <value_ints = [1]> ()
    embedding = ReduceMean <keepdims = 0> (last, axis)
}"""


@pytest.mark.parametrize(("scale", "kept"), [(1.0, ()), (1e6, ("MatMul_4", "MatMul_5"))], ids=["small", "overflowing"])
def test_a_fused_graph(write: Callable[..., Path], scale: float, kept: tuple[str, ...]) -> None:
    path = write(
        FUSED,
        first=normal(DIM, DIM),
        qkv=normal(DIM, 3 * DIM),
        qkv_bias=normal(3 * DIM),
        mask=np.where(np.arange(5) == 3, np.float32(LOWEST), np.float32(0)).reshape(1, 1, 1, 5).repeat(5, axis=2),
        gamma=normal(DIM),
        beta=normal(DIM),
        widen=normal(DIM, 16, scale=scale),
        shrink=normal(16, DIM, scale=1 / scale),
    )
    half = convert(path, [X])

    assert half.float_nodes == kept
    assert {"Attention_1", "SkipLayerNormalization_2", "BiasGelu_3", "SkipLayerNormalization_6"} <= in_half(half)
    assert distance(run(half.model, X), run(path, X)) < 1e-5


def test_a_real_text_graph(exported_text: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 60, (3, 7))
    mask = np.array([[1] * 7, [1] * 3 + [0] * 4, [1] + [0] * 6])
    feeds = {"input_ids": ids, "attention_mask": mask}
    half = convert(exported_text / "text.onnx", [feeds])

    assert half.float_nodes == ()
    expected = run(exported_text / "text.onnx", feeds)
    assert distance(run(half.model, feeds), expected) < 1e-5


def test_a_real_image_graph(exported_float32: Path) -> None:
    feeds = {"pixel_values": normal(2, 3, 40, 40)}
    half = convert(exported_float32 / "image.onnx", [feeds])

    assert half.float_nodes == ()
    assert distance(run(half.model, feeds), run(exported_float32 / "image.onnx", feeds)) < 1e-5
    types = [value.dtype for value in half.model.graph.initializers.values()]
    assert types.count(ir.DataType.FLOAT16) >= 4
