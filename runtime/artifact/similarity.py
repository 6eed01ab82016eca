"""Similarities of vectors, by the functions and names of sentence-transformers.

Source: ``sentence_transformers.util.similarity`` (https://github.com/huggingface/sentence-transformers).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np

from runtime.array_types import Array, Float64Array
from runtime.errors import UsageError
from runtime.postprocess import as_rows

SimilarityFunction = Literal["cosine", "dot", "euclidean", "manhattan"]
_BLOCK = 1024  # rows of b that are float64 at once


def similarities(a: Array, b: Array, function: SimilarityFunction = "cosine") -> Float64Array:
    """Return the similarity of each row of ``a`` to each row of ``b``: ``[rows of a, rows of b]`` float64.

    The larger, the more similar. A distance is negative.

    Args:
        a: ``[rows, dim]``, or ``[dim]`` for one row, of real numbers. Dequantize codes of int8 first.
        b: The same. It may be memory-mapped: the function reads it in blocks of rows.
        function: ``cosine``; ``dot``, the product; or minus the ``euclidean`` or ``manhattan`` distance. By cosine, a
            row of zeros has no direction: its similarities are NaN.

    Raises:
        UsageError: The rows have different lengths or no values, or are codes or no real numbers.
    """
    a, b = as_rows(a), as_rows(b)
    if a.shape[1] != b.shape[1]:
        raise UsageError(
            f"vectors of {a.shape[1]} and of {b.shape[1]} dimensions cannot be compared; embed both with the same "
            "artifact and the same truncate_dim"
        )
    compare, a = _FUNCTIONS[function], a.astype(np.float64)
    found = np.empty((len(a), len(b)))
    for start in range(0, len(b), _BLOCK):
        found[:, start : start + _BLOCK] = compare(a, b[start : start + _BLOCK].astype(np.float64))
    return found


def _cosine(a: Float64Array, b: Float64Array) -> Float64Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return _dot(*(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b)))


def _dot(a: Float64Array, b: Float64Array) -> Float64Array:
    products: Float64Array = a @ b.T
    return products


def _distance(order: int, a: Float64Array, b: Float64Array) -> Float64Array:
    distances = [np.linalg.norm(b - row, ord=order, axis=1) for row in a]
    return -np.array(distances).reshape(len(a), len(b))


_FUNCTIONS: dict[SimilarityFunction, Callable[[Float64Array, Float64Array], Float64Array]] = {
    "cosine": _cosine,
    "dot": _dot,
    "euclidean": partial(_distance, 2),
    "manhattan": partial(_distance, 1),
}
