from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from exporters.calibration import activations
from exporters.calibration.activations import channel_means, gram_matrices
from exporters.graph.onnx_file import load_graph
from exporters.passes import int8_weights, rounding
from exporters.passes.int8 import StaticQuantizer
from runtime.array_types import Array
from tests.exporters.toy_graphs import embed_batches, normal, random_batches, residual_graph, write_text_graph

ROWS, COLUMNS = 150, 12  # more rows than a block


@pytest.fixture
def weights() -> Array:
    return np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)


@pytest.fixture
def gram() -> Array:
    """Return the Gram matrix of activations that go together."""
    source = np.random.default_rng(1)
    activations = source.normal(size=(600, 20)) @ source.normal(size=(20, ROWS)) + source.normal(size=(600, ROWS))
    return (activations.T @ activations).astype(np.float32)


def scales(weights: Array) -> Array:
    found: Array = np.abs(weights).max(axis=0) / 127
    return found


def product_errors(exact: Array, rounded: Array, gram: Array) -> Array:
    """Return the squared error of the product with the activations, summed over these, ``[columns]``."""
    difference = exact - rounded
    errors: Array = np.einsum("rc,rc->c", difference, gram @ difference)
    return errors


def test_compensated_errors_are_a_fraction_of_those_of_nearest_rounding(weights: Array, gram: Array) -> None:
    compensated = rounding.round_weights(weights, gram)
    before, after = (product_errors(weights, each, gram) for each in (rounding.round_to_nearest(weights), compensated))
    better = after < 0.5 * before
    assert better.sum() > 0.7 * COLUMNS, after / before
    assert (after <= before * (1 + 1e-5)).all(), "no column is worse"
    np.testing.assert_allclose(scales(compensated), scales(weights), rtol=1e-6)
    integers = compensated / scales(weights)
    assert np.abs(integers - np.rint(integers)).max() < 1e-4
    assert np.array_equal(compensated, rounding.round_weights(weights, gram)), "not deterministic"


def test_without_compensation_the_errors_are_those_of_nearest_rounding(
    weights: Array, gram: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "_cholesky", lambda gram: np.eye(len(gram), dtype=np.float32))
    np.testing.assert_allclose(rounding.round_weights(weights, gram), rounding.round_to_nearest(weights), rtol=1e-6)


@pytest.mark.parametrize("fault", ["larger", "clipped"])
def test_a_rounding_that_is_worse_or_changes_the_scale_is_not_used(
    weights: Array, gram: Array, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    right = rounding._compensate

    def spoiled(*arguments: Array) -> Array:
        integers = right(*arguments)
        return integers + 3 if fault == "larger" else np.clip(integers, -126, 126)

    monkeypatch.setattr(rounding, "_compensate", spoiled)
    np.testing.assert_allclose(rounding.round_weights(weights, gram), rounding.round_to_nearest(weights), rtol=1e-6)


def test_unused_channels_and_columns_of_zeros_do_no_harm(weights: Array, gram: Array) -> None:
    weights[:, 3], gram[5], gram[:, 5] = 0, 0, 0
    result = rounding.round_weights(weights, gram)
    assert np.isfinite(result).all()
    assert not result[:, 3].any()
    np.testing.assert_allclose(
        rounding.round_weights(weights, np.zeros_like(gram)), rounding.round_to_nearest(weights), rtol=1e-6
    )


@pytest.fixture
def residual(tmp_path: Path) -> Path:
    return residual_graph(tmp_path / "residual.onnx")


@pytest.mark.parametrize(("block", "limit", "passes"), [(12, 1, 2), (32, 2**20, 1)])
def test_gram_matrices_are_those_of_the_rounded_activations(
    block: int, limit: int, passes: int, residual: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, model, opened = random_batches(3, 1), load_graph(residual), list[Path]()
    means = channel_means(model, {"first.in": 32}, batches)["first.in"]
    monkeypatch.setattr(activations, "_GRAM_BYTES", limit)
    monkeypatch.setattr(activations, "_GRAM_BLOCK", block)
    open_session = activations.open_session

    def counted(graph: Path) -> onnxruntime.InferenceSession:
        opened.append(graph)
        return open_session(graph)

    monkeypatch.setattr(activations, "open_session", counted)
    ranges = {"first.in": (-1.0, 0.5), "third.in": (-1.0, 1.0)}
    centres = {"third.in": np.ones(32, np.float32)}
    grams = dict(gram_matrices(model, dict.fromkeys(ranges, 32), ranges, centres, batches))
    assert list(grams) == ["first.in", "third.in"]
    assert len(opened) == passes
    rows = np.tanh(np.concatenate([batch["x"] for batch in batches])).reshape(-1, 32)
    np.testing.assert_allclose(means, rows.mean(axis=0), atol=1e-6)
    step = 1.5 / 255
    rounded = np.clip(np.rint(rows / step), -170, 85) * step
    np.testing.assert_allclose(grams["first.in"], rounded.T @ rounded, rtol=1e-3, atol=1e-2)


TOGETHER = """toy (float[batch, tokens, 32] x) => (float[batch, 32] embedding) {
    few = MatMul(x, narrow)
    many = MatMul(few, widen)
    active = Tanh(many)
    product = MatMul(active, w)
    axis = Constant <value_ints = [1]> ()
    embedding = ReduceMean <keepdims = 0> (product, axis)
}"""


def test_compensated_weights_reach_the_int8_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The channels of the activations go together, because they come from few."""
    narrow, widen, w = normal(32, 6, scale=0.2), normal(6, 96, scale=0.4, seed=1), normal(96, 32, seed=2)
    graph = write_text_graph(tmp_path / "f.onnx", TOGETHER, narrow=narrow, widen=widen, w=w)
    calibration, held_out = random_batches(32, 1), random_batches(8, 2)
    reference, errors = embed_batches(graph, held_out), {}
    for name in ("compensated", "nearest"):
        if name == "nearest":
            monkeypatch.setattr(int8_weights, "round_weights", lambda weights, gram: weights)
        with StaticQuantizer(graph, calibration, method="minmax") as quantizer:
            first, second, _ = quantizer.nodes
            quantizer.write(tmp_path / f"{name}.onnx", [first, second])
        errors[name] = np.abs(embed_batches(tmp_path / f"{name}.onnx", held_out) - reference).mean()
    assert errors["compensated"] < 0.8 * errors["nearest"], errors
    tensors = [onnx.load(tmp_path / f"{name}.onnx").graph.initializer for name in errors]
    exact = [[numpy_helper.to_array(each) for each in found if each.name.endswith("exact")] for found in tensors]
    assert len(exact[0]) == 2
    assert all(map(np.array_equal, *exact)), "float nodes keep their exact weights"
