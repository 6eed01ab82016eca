"""Truncate, normalize and quantize embeddings, with the same results as sentence-transformers.

Source: ``sentence_transformers.quantization.quantize_embeddings`` and ``truncate_embeddings``
(https://github.com/huggingface/sentence-transformers).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from runtime.array_types import Array, Float32Array
from runtime.errors import UsageError

Dtype = Literal["float32", "float16", "int8", "binary"]
_INT8_STEPS = 255


def as_rows(vectors: Array) -> Array:
    """Return vectors as an array, ``[rows, dim]``. A vector ``[dim]`` becomes one row.

    Raises:
        UsageError: They have another shape or no values, are codes of 8 bits, or are no real numbers.
    """
    try:
        rows = np.asarray(vectors)
    except (TypeError, ValueError) as exc:
        raise UsageError(f"vectors must be an array of real numbers ({exc}); give the result of embed") from exc
    if rows.dtype in (np.int8, np.uint8):
        raise UsageError(f"vectors of {rows.dtype} are codes; dequantize them first, or embed as float32")
    if rows.dtype.kind not in "fiu":
        raise UsageError(f"vectors must be an array of real numbers, not {rows.dtype}; give the result of embed")
    if rows.ndim not in (1, 2) or not rows.shape[-1]:
        raise UsageError(f"vectors must be [rows, dim], not {list(rows.shape)}; give the result of embed")
    return np.atleast_2d(rows)


def int8_ranges(vectors: Array) -> Float32Array:
    """Return the smallest and the largest value of each dimension, ``[2, dim]`` float32.

    Args:
        vectors: ``[rows, dim]`` real numbers. Take many, because values outside their ranges are clipped later.

    Raises:
        UsageError: There are no rows, or they are no real numbers.
    """
    vectors = as_rows(vectors)
    if not len(vectors):
        raise UsageError("there are no vectors to compute the ranges of int8 from; pass some, or pass ranges")
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)]).astype(np.float32)


def quantize(vectors: Array, dtype: Dtype, ranges: Array | None = None) -> Array:
    """Return ``vectors`` in another type.

    Args:
        vectors: ``[rows, dim]`` real numbers, or ``[dim]`` for one row.
        dtype: ``float16`` rounds. ``int8`` maps the range of each dimension to -128 to 127. ``binary`` keeps the signs,
            eight dimensions in a byte, minus 128.
        ranges: ``[2, dim]`` of :func:`int8_ranges`, for ``int8``; by default the ranges of ``vectors``, which then
            must be two or more different ones. Vectors that are compared with each other need the same ranges. Values
            outside are clipped.

    Returns:
        ``[rows, dim]`` float32, float16 or int8; for ``binary`` ``[rows, ceil(dim / 8)]`` int8.

    Raises:
        UsageError: The vectors are no real numbers or do not fit the type, or :func:`check_dtype` refuses the type or
            the ranges.
    """
    vectors, ranges = as_rows(vectors), None if ranges is None else np.asarray(ranges)
    check_dtype(dtype, ranges, vectors.shape[1])
    if not np.isfinite(vectors).all():
        raise UsageError("the vectors hold NaN or infinity; remove those rows")
    if dtype == "int8" and len(vectors):
        if ranges is None:
            ranges = int8_ranges(vectors)
            _check_ranges(ranges)
        return _to_int8(vectors, ranges)
    if dtype == "binary":
        return (np.packbits(vectors > 0, axis=1).astype(np.int16) - 128).astype(np.int8)
    if dtype != "int8" and np.abs(vectors).max(initial=0) > np.finfo(dtype).max:
        raise UsageError(f"the vectors hold values that {dtype} cannot; normalize them, or keep {vectors.dtype}")
    return vectors.astype(dtype, copy=False)


def dequantize(codes: Array, ranges: Array) -> Array:
    """Return the middles of the steps that int8 ``codes`` of :func:`quantize` stand for, ``[rows, dim]`` float32.

    Raises:
        UsageError: ``codes`` are not int8, or ``ranges`` are not ``[2, dim]``.
    """
    codes, ranges = np.asarray(codes), np.asarray(ranges)
    if codes.dtype != np.int8 or ranges.shape != (2, *codes.shape[-1:]):
        raise UsageError(
            f"codes of {codes.dtype} {list(codes.shape)} cannot be dequantized by ranges {list(ranges.shape)}; give "
            "int8 [rows, dim], and the ranges [2, dim] that made them"
        )
    smallest, largest = ranges.astype(np.float32)
    values: Array = smallest + (codes.astype(np.float32) + 128.5) * _find_steps(ranges)
    capped: Array = np.minimum(values, largest)
    return capped


def check_dtype(dtype: str, ranges: Array | None, dim: int) -> None:
    """Check the type and the ranges of :func:`quantize` for vectors of ``dim`` dimensions.

    Raises:
        UsageError: There is no such type. Ranges are refused for another type or shape, and with NaN, infinity or a
            smallest value above the largest. They are also refused if they tell no vectors apart.
    """
    if dtype not in get_args(Dtype):
        raise UsageError(f"dtype is {dtype!r}, it must be one of {', '.join(get_args(Dtype))}")
    if ranges is None:
        return
    if dtype != "int8":
        raise UsageError(f"ranges are for dtype int8, not {dtype}; leave them out")
    ranges = as_rows(ranges)
    if ranges.shape != (2, dim):
        raise UsageError(
            f"ranges is {list(ranges.shape)}, it must be the smallest and the largest value of each dimension: "
            f"[2, {dim}]; take the ranges of vectors of the same model and truncate_dim"
        )
    if (ranges[0] > ranges[1]).any():
        raise UsageError("ranges has a smallest value above the largest; take the result of int8_ranges")
    _check_ranges(ranges)


def _check_ranges(ranges: Array) -> None:
    """Raise :class:`UsageError` unless ``[2, dim]`` ranges are finite and tell vectors apart."""
    with np.errstate(invalid="ignore", over="ignore"):
        steps = _find_steps(ranges)
    if not np.isfinite(steps).all():
        raise UsageError("the ranges hold NaN, infinity or values too large for float32; take those of other vectors")
    if not steps.any():
        raise UsageError(
            "the ranges have the same smallest and largest value in every dimension, so all codes would be equal; "
            "take ranges of more, different vectors"
        )


def truncate_and_normalize(vectors: Array, truncate_dim: int | None, normalize: bool) -> Array:
    """Return the first dimensions of each vector, normalized on request.

    Args:
        vectors: ``[rows, dim]`` float32.
        truncate_dim: Number of dimensions to keep, for models trained with Matryoshka loss; ``None`` for all.
        normalize: Whether to divide each row by its length, after truncation. A row of zeros stays zero.
    """
    vectors = np.ascontiguousarray(vectors[:, :truncate_dim])  # a view would hold the other dimensions, too
    if not normalize:
        return vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def _to_int8(vectors: Array, ranges: Array) -> Array:
    steps = _find_steps(ranges)
    steps[steps == 0] = 1  # a constant dimension
    levels: Array = np.clip(np.floor((vectors - ranges[0].astype(np.float32)) / steps), 0, _INT8_STEPS)
    return (levels - 128).astype(np.int8)


def _find_steps(ranges: Array) -> Float32Array:
    """Return the width of a step in each dimension, ``[dim]``."""
    smallest, largest = ranges.astype(np.float32)
    steps: Float32Array = (largest - smallest) / np.float32(_INT8_STEPS)
    return steps
