"""Smaller embeddings equal those of sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
from sentence_transformers.util import truncate_embeddings
from sentence_transformers.util.quantization import quantize_embeddings

import runtime
from runtime.postprocess import Dtype, dequantize, int8_ranges, quantize, truncate_and_normalize

VECTORS = np.random.default_rng(0).normal(size=(200, 20)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["int8", "binary"])
def test_the_values_are_those_of_sentence_transformers(dtype: Literal["int8", "binary"]) -> None:
    theirs = np.asarray(quantize_embeddings(VECTORS, precision=dtype))
    ours = quantize(VECTORS, dtype)
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


def test_lists_and_single_vectors_are_quantized() -> None:
    ranges = int8_ranges(VECTORS.tolist())
    np.testing.assert_array_equal(ranges, int8_ranges(VECTORS))
    rows: Any = (VECTORS.tolist(), ranges.tolist())
    np.testing.assert_array_equal(quantize(rows[0], "int8", rows[1]), quantize(VECTORS.astype(float), "int8"))
    np.testing.assert_array_equal(quantize(VECTORS[0], "binary"), quantize(VECTORS, "binary")[:1])


def test_ranges_of_a_sample_apply_to_other_vectors() -> None:
    sample, others = VECTORS[:150], VECTORS[150:]
    theirs = np.asarray(quantize_embeddings(others, precision="int8", ranges=int8_ranges(sample)))
    np.testing.assert_array_equal(quantize(others, "int8", int8_ranges(sample)), theirs)


def test_values_outside_the_ranges_are_clipped() -> None:
    ranges = np.array([[-1.0], [1.0]], dtype=np.float32)
    assert quantize(np.array([[-9.0], [9.0]], dtype=np.float32), "int8", ranges).ravel().tolist() == [-128, 127]


def test_a_constant_dimension_is_no_division_by_zero() -> None:
    vectors = np.array([[1, 0], [1, 255], [1, 100]], np.float32)
    assert quantize(vectors, "int8").tolist() == [[-128, -128], [-128, 127], [-128, -28]]


def test_float16_rounds() -> None:
    assert quantize(VECTORS, "float16").dtype == np.float16
    np.testing.assert_array_equal(quantize(VECTORS, "float16"), VECTORS.astype(np.float16))


@pytest.mark.parametrize(("dtype", "shape"), [("float16", (0, 20)), ("int8", (0, 20)), ("binary", (0, 3))])
def test_no_vectors_stay_none(dtype: Dtype, shape: tuple[int, int]) -> None:
    assert quantize(VECTORS[:0], dtype).shape == shape


@pytest.mark.parametrize(
    ("dtype", "ranges", "message"),
    [
        ("int4", None, "dtype is 'int4', it must be one of float32"),
        ("int8", np.zeros((2, 3)), r"\[2, 20\]"),
        ("int8", np.stack([np.ones(20), np.zeros(20)]), "a smallest value above the largest"),
        ("int8", np.full((2, 20), np.nan), "NaN, infinity"),
        ("int8", np.stack([np.zeros(20), np.full(20, np.inf)]), "NaN, infinity"),
        ("int8", np.full((2, 20), np.inf), "NaN, infinity"),
        ("int8", np.stack([np.full(20, -3e38), np.full(20, 3e38)]), "too large for float32"),
        ("int8", np.zeros((2, 20)), "all codes would be equal; take ranges of more, different vectors"),
        ("int8", int8_ranges(VECTORS[:1]), "all codes would be equal"),
        ("binary", np.zeros((2, 20)), "for dtype int8"),
    ],
)
def test_invalid_arguments_are_refused(dtype: Any, ranges: Any, message: str) -> None:
    with pytest.raises(runtime.UsageError, match=message):
        quantize(VECTORS, dtype, ranges)


@pytest.mark.parametrize(
    ("dtype", "vectors", "message"),
    [
        ("int8", VECTORS[:1], "all codes would be equal; take ranges of more, different vectors"),
        ("int8", VECTORS[[0, 0]], "all codes would be equal"),
        ("int8", np.full((3, 4), np.nan, np.float32), "hold NaN or infinity"),
        ("binary", np.full((3, 4), np.inf, np.float32), "hold NaN or infinity"),
        ("float16", 1e5 * VECTORS, "that float16 cannot; normalize them, or keep float32"),
        ("float32", 1e300 * VECTORS.astype(np.float64), "that float32 cannot; normalize them, or keep float64"),
        ("binary", VECTORS[None], r"must be \[rows, dim\], not \[1, 200, 20\]"),
        ("int8", [["1", "2"]], "real numbers, not <U1"),
        ("binary", quantize(VECTORS, "int8"), "vectors of int8 are codes"),
    ],
)
def test_vectors_that_do_not_fit_the_type_are_refused(dtype: Dtype, vectors: Any, message: str) -> None:
    with pytest.raises(runtime.UsageError, match=message):
        quantize(vectors, dtype)


def test_only_int8_codes_are_dequantized_by_their_ranges() -> None:
    codes, ranges = quantize(VECTORS, "int8"), int8_ranges(VECTORS)
    np.testing.assert_array_equal(dequantize(codes, cast("Any", ranges.tolist())), dequantize(codes, ranges))
    for other, bounds in ((quantize(VECTORS, "binary"), ranges), (VECTORS, ranges), (codes, ranges[:, :3])):
        with pytest.raises(runtime.UsageError, match="cannot be dequantized by ranges"):
            dequantize(other, bounds)


def test_truncation_comes_before_normalisation() -> None:
    truncated = truncate_embeddings(VECTORS, 7)
    expected = truncated / np.linalg.norm(truncated, axis=1, keepdims=True)
    np.testing.assert_allclose(truncate_and_normalize(VECTORS, 7, True), expected, rtol=1e-6)
    np.testing.assert_array_equal(truncate_and_normalize(VECTORS, 7, False), truncated)
    assert truncate_and_normalize(VECTORS, 7, False).base is None, "the other dimensions are not in memory"
    assert not truncate_and_normalize(np.zeros((1, 3), np.float32), None, True).any(), "zeros have no direction"


def test_embed_returns_them(exported_text: Path) -> None:
    model, texts = runtime.load(exported_text), ["a", "some text", "another one"]
    plain = model.embed(texts)
    small = model.embed(texts, truncate_dim=5, normalize=True, dtype="float16")
    assert (small.shape, small.dtype) == ((3, 5), np.float16)
    np.testing.assert_allclose(np.linalg.norm(small.astype(float), axis=1), 1, atol=1e-3)
    np.testing.assert_array_equal(model.embed(texts, dtype="binary"), quantize(plain, "binary"))
    ranges = int8_ranges(plain)
    np.testing.assert_array_equal(model.embed(texts[:1], dtype="int8", ranges=ranges)[0], quantize(plain, "int8")[0])
    with pytest.raises(runtime.UsageError, match="truncate_dim is 25, and the vectors have 24"):
        model.embed(texts, truncate_dim=25)
