"""The nodes that become float16, and those that stay float32 because of their values or operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from exporters.calibration.magnitudes import max_abs_values
from exporters.graph.attention_masks import FP16_MAX
from exporters.passes import fp16 as fp16_pass
from tests.exporters.passes.fp16_checks import DIM, X, convert, distance, fp16_nodes, run, run_rounding
from tests.exporters.toy_graphs import feed_forward_graph, normal, write_text_graph, write_token_graph


def test_weights_and_activations_become_float16(path: Path) -> None:
    feed_forward_graph(path, 1.0)
    fp16 = convert(path, [X])

    assert fp16.float_nodes == ()
    assert fp16_nodes(fp16) == {"MatMul_0", "MatMul_1", "Relu_2", "MatMul_3", "Add_4", "MatMul_5"}
    weights = {value.name: value.dtype for value in fp16.model.graph.initializers.values()}
    assert set(weights.values()) == {ir.DataType.FLOAT16}
    assert [value.dtype for value in (*fp16.model.graph.inputs, *fp16.model.graph.outputs)] == [ir.DataType.FLOAT] * 2
    assert distance(run(fp16.model, X), run(path, X)) < 1e-6


@pytest.mark.parametrize(("scale", "beyond"), [(1e3, False), (1e5, True)])
def test_hidden_activations_near_and_beyond_float16s_limit_stay_float32(path: Path, scale: float, beyond: bool) -> None:
    feed_forward_graph(path, scale)
    assert (max_abs_values(path, [X])["hidden"] > FP16_MAX) is beyond
    fp16 = convert(path, [X])

    assert fp16.float_nodes == ("MatMul_1", "Relu_2", "MatMul_3")
    assert fp16_nodes(fp16) == {"MatMul_0", "Add_4", "MatMul_5"}
    assert distance(run(fp16.model, X), run(path, X)) < 1e-6
    assert distance(run_rounding(fp16.model, X), run(path, X)) < 1e-5


def test_without_a_limit_they_overflow(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp16_pass, "SAFE_LIMIT", np.inf)
    with np.errstate(over="ignore"):
        fp16 = convert(feed_forward_graph(path, 1e5), [X])

    assert fp16.float_nodes == ()
    assert not np.isfinite(run_rounding(fp16.model, X)).all()


def test_external_weights_are_loaded(path: Path, tmp_path: Path) -> None:
    feed_forward_graph(path, 1e5, external=True)
    expected = run(feed_forward_graph(path, 1e5), X)
    feed_forward_graph(path, 1e5, external=True)
    fp16 = convert(path, [X])
    (tmp_path / "toy.data").unlink()

    assert distance(run(fp16.model, X), expected) < 1e-6


def test_a_constant_may_be_used_in_both_precisions(path: Path) -> None:
    write_text_graph(
        path,
        """toy (float[batch, tokens, 8] x) => (float[batch, 8] embedding) {
            start = MatMul(x, shared)
            axis = Constant <value_ints = [1]> ()
            pooled = ReduceMean <keepdims = 0> (start, axis)
            embedding = MatMul(pooled, shared)
        }""",
        shared=normal(DIM, DIM),
    )
    fp16 = convert(path, [X])
    assert {value.dtype for value in fp16.model.graph.initializers.values()} == {
        ir.DataType.FLOAT,
        ir.DataType.FLOAT16,
    }
    assert fp16_nodes(fp16) == {"MatMul_0"}


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


def test_pixels_are_scaled_and_pooled_in_float32(path: Path) -> None:
    write_text_graph(
        path,
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
    fp16 = convert(path, [feeds])

    assert fp16.float_nodes == ()
    assert fp16_nodes(fp16) == {"Conv_5", "Relu_6"}
    assert fp16.model.graph.inputs[0].dtype == ir.DataType.UINT8
    assert distance(run(fp16.model, feeds), run(path, feeds)) < 1e-6


# A network on points: float16 cannot represent the differences that decide which point is nearest.
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


def test_points_are_chosen_in_float32_and_loops_stay_unchanged(path: Path) -> None:
    write_text_graph(
        path,
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
    fp16 = convert(path, [feeds])

    assert fp16_nodes(fp16) == {"MatMul_8", "Relu_9", "MatMul_10"}
    loops = [node for model in (fp16.model, ir.load(path)) for node in ir.to_proto(model).graph.node]
    bodies = [node.attribute[0].g.SerializeToString() for node in loops if node.op_type == "Loop"]
    assert bodies[0] == bodies[1]
    assert distance(run(fp16.model, feeds), run(path, feeds)) < 1e-5


def test_a_float16_value_is_cast_for_the_body_of_a_condition(path: Path) -> None:
    write_text_graph(
        path,
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
    fp16 = convert(path, [X])
    assert distance(run(fp16.model, X), run(path, X)) < 1e-6


def test_the_statistics_of_a_norm_are_float32(path: Path) -> None:
    write_token_graph(
        path,
        """square = Pow(start, two)
            features = Constant <value_ints = [-1]> ()
            mean = ReduceMean(square, features)
            shifted = Add(mean, epsilon)
            root = Sqrt(shifted)
            inverse = Reciprocal(root)
            scaled = Mul(start, inverse)
            weighted = Mul(weight, scaled)
            last = MatMul(weighted, final)""",
        first=normal(DIM, DIM, scale=100),
        two=np.float32(2),
        epsilon=np.float32(1e-6),
        weight=normal(DIM),
        final=normal(DIM, DIM),
    )
    fp16 = convert(path, [X])

    assert fp16.float_nodes == ()
    assert fp16_nodes(fp16) == {"MatMul_0", "Mul_8", "MatMul_9"}
    assert distance(run(fp16.model, X), run(path, X)) < 1e-6


def test_nodes_before_indices_stay_float32_and_nan_checks_do_not(path: Path) -> None:
    write_text_graph(
        path,
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
    fp16 = convert(path, [X])

    assert fp16_nodes(fp16) == {"head", "Where_4", "GatherElements_5", "MatMul_6"}
    assert distance(run(fp16.model, X), run(path, X)) < 1e-5


FUSED = """attended = com.microsoft.Attention <num_heads = 2> (start, qkv, qkv_bias, , , mask)
    normed, mean, deviation, sum = com.microsoft.SkipLayerNormalization <epsilon = 1e-12> (attended, start, gamma, beta)
    active = com.microsoft.BiasGelu(normed, beta)
    wide = MatMul(active, widen)
    narrow = MatMul(wide, shrink)
    last, other_mean, other_deviation, other_sum = com.microsoft.SkipLayerNormalization (narrow, sum, gamma, beta)"""


@pytest.mark.parametrize(("scale", "kept"), [(1.0, ()), (1e6, ("MatMul_4", "MatMul_5"))], ids=["small", "overflowing"])
def test_fused_operators_become_float16(path: Path, scale: float, kept: tuple[str, ...]) -> None:
    write_token_graph(
        path,
        FUSED,
        qkv=normal(DIM, 3 * DIM),
        qkv_bias=normal(3 * DIM),
        mask=np.where(np.arange(5) == 3, np.finfo(np.float32).min, np.float32(0)).reshape(1, 1, 1, 5).repeat(5, axis=2),
        gamma=normal(DIM),
        beta=normal(DIM),
        widen=normal(DIM, 16, scale=scale),
        shrink=normal(16, DIM, scale=1 / scale),
    )
    fp16 = convert(path, [X])

    assert fp16.float_nodes == kept
    assert {"Attention_1", "SkipLayerNormalization_2", "BiasGelu_3", "SkipLayerNormalization_6"} <= fp16_nodes(fp16)
    assert distance(run(fp16.model, X), run(path, X)) < 1e-5


def test_a_real_text_graph(exported_text: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 60, (3, 7))
    mask = np.array([[1] * 7, [1] * 3 + [0] * 4, [1] + [0] * 6])
    feeds = {"input_ids": ids, "attention_mask": mask}
    fp16 = convert(exported_text / "text.onnx", [feeds])

    assert fp16.float_nodes == ()
    expected = run(exported_text / "text.onnx", feeds)
    assert distance(run(fp16.model, feeds), expected) < 1e-5


def test_a_real_image_graph(exported_float32: Path) -> None:
    feeds = {"pixel_values": normal(2, 3, 40, 40)}
    fp16 = convert(exported_float32 / "image.onnx", [feeds])

    assert fp16.float_nodes == ()
    assert distance(run(fp16.model, feeds), run(exported_float32 / "image.onnx", feeds)) < 1e-5
    types = [value.dtype for value in fp16.model.graph.initializers.values()]
    assert types.count(ir.DataType.FLOAT16) >= 4
