"""Similarities of vectors, by the functions and names of sentence-transformers.

Source: ``sentence_transformers.util.similarity`` (https://github.com/huggingface/sentence-transformers).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from runtime.array_types import Array, Float64Array
from runtime.errors import UsageError

SimilarityFunction = Literal["cosine", "dot", "euclidean", "manhattan"]


def similarities(a: Array, b: Array, function: SimilarityFunction = "cosine") -> Float64Array:
    """Return the similarity of each row of ``a`` to each row of ``b``: ``[rows of a, rows of b]`` float64.

    The larger, the more similar. A distance is negative.

    Args:
        a: ``[rows, dim]``, or ``[dim]`` for one row, of any float type.
        b: The same.
        function: ``cosine``; ``dot``, the product; or minus the ``euclidean`` or ``manhattan`` distance. By cosine, a
            row of zeros has no direction: its similarities are NaN.

    Raises:
        UsageError: The rows have different lengths, or are no numbers.
    """
    a, b = _rows(a), _rows(b)
    if a.shape[1] != b.shape[1]:
        raise UsageError(
            f"vectors of {a.shape[1]} and of {b.shape[1]} dimensions cannot be compared; embed both with the same "
            "artifact and the same truncate_dim"
        )
    if function in ("euclidean", "manhattan"):
        order = 1 if function == "manhattan" else 2
        distances = [np.linalg.norm(b - row, ord=order, axis=1) for row in a]
        return -np.array(distances).reshape(len(a), len(b))
    if function == "cosine":
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b))
    products: Float64Array = a @ b.T
    return products


def _rows(vectors: Array) -> Float64Array:
    try:
        rows = np.atleast_2d(np.asarray(vectors, dtype=np.float64))
    except (TypeError, ValueError) as exc:
        raise UsageError(f"vectors must be an array of numbers ({exc}); give the result of embed") from exc
    if rows.ndim > 2:
        raise UsageError(f"vectors must be [rows, dim], not {list(rows.shape)}; give the result of embed")
    return rows


def cosine_similarities(a: Array, b: Array) -> Float64Array:
    """Return :func:`similarities` by cosine."""
    return similarities(a, b)
