"""Constants and values beyond the range of float16: masks, epsilons, clips and small weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exporters.calibration.magnitudes import max_abs_values
from exporters.graph.attention_masks import FP16_MASK_VALUE
from exporters.passes import fp16 as fp16_pass
from tests.exporters.passes.fp16_checks import DIM, X, convert, distance, fp16_nodes, run
from tests.exporters.toy_graphs import feed_forward_graph, normal, write_text_graph, write_token_graph

LOWEST = float(np.finfo(np.float32).min)


def test_values_too_small_for_float16_stay_float32(path: Path) -> None:
    feed_forward_graph(path, 1e-6)
    assert convert(path, [X]).float_nodes == ("MatMul_1", "Relu_2", "MatMul_3")


def test_an_epsilon_too_small_for_float16_stays_float32(path: Path) -> None:
    write_token_graph(
        path,
        """sum = Add(start, epsilon)
            ratio = Div(start, sum)
            last = MatMul(ratio, final)""",
        epsilon=np.float32(1e-9),
        final=normal(DIM, DIM),
    )
    feeds = {"x": np.where(np.arange(5)[None, :, None] == 2, 0, X["x"])}  # 0 / epsilon is 0, but 0 / 0 is NaN
    fp16 = convert(path, [feeds])

    assert fp16.float_nodes == ("Add_1",)
    assert np.isfinite(run(fp16.model, feeds)).all()
    assert distance(run(fp16.model, feeds), run(path, feeds)) < 1e-6


def test_a_bias_may_become_zero(path: Path) -> None:
    write_token_graph(
        path,
        """sum = Add(start, bias)
            last = MatMul(sum, final)""",
        bias=normal(DIM, scale=1e-8),
        final=normal(DIM, DIM),
    )
    fp16 = convert(path, [X])

    assert fp16_nodes(fp16) == {"MatMul_0", "Add_1", "MatMul_2"}
    assert distance(run(fp16.model, X), run(path, X)) < 1e-6


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
def test_masks_stay_finite_and_masked(path: Path, bias: str, lowest: float) -> None:
    write_text_graph(
        path,
        ATTENTION % BIASES[bias],
        first=normal(DIM, DIM),
        zero=np.float32(0),
        unit=np.float32(1),
        lowest=np.float32(lowest),
        one=np.array([1]),
    )
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    fp16 = convert(path, [{"mask": mask, **X}])

    assert fp16.float_nodes == ()
    assert "Softmax_" in " ".join(fp16_nodes(fp16))
    feeds = {"mask": mask, "x": X["x"] * 3}
    assert distance(run(fp16.model, feeds), run(path, feeds)) < 1e-5
    nothing = {"mask": np.zeros_like(mask), **X}
    assert np.isfinite(run(fp16.model, nothing)).all()


def test_a_clip_bound_beyond_float16_has_no_effect(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_token_graph(
        path,
        """clipped = Clip(start, lowest)
            last = MatMul(clipped, final)""",
        first=normal(DIM, DIM, scale=2000),
        lowest=np.float32(LOWEST),
        final=normal(DIM, DIM),
    )
    monkeypatch.setattr(fp16_pass, "SAFE_LIMIT", 40_000)
    fp16 = convert(path, [X])

    assert np.abs(max_abs_values(path, [X])["start"]) > FP16_MASK_VALUE
    assert fp16_nodes(fp16) == {"MatMul_0", "Clip_1", "MatMul_2"}
    assert distance(run(fp16.model, X), run(path, X)) < 1e-6
