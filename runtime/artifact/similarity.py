"""Similarities of vectors, by the functions and names of sentence-transformers.

Source: ``sentence_transformers.util.similarity`` (https://github.com/huggingface/sentence-transformers).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from runtime.array_types import Array, Float64Array

SimilarityFunction = Literal["cosine", "dot", "euclidean", "manhattan"]


def similarities(a: Array, b: Array, function: SimilarityFunction = "cosine") -> Float64Array:
    """Return the similarity of each row of ``a`` to each row of ``b``: ``[rows of a, rows of b]`` float64.

    The larger, the more similar. A distance is negative.

    Args:
        a: ``[rows, dim]`` of any float type.
        b: ``[rows, dim]`` of any float type.
        function: ``cosine``; ``dot``, the product; or minus the ``euclidean`` or ``manhattan`` distance. By cosine, a
            row of zeros has no direction: its similarities are NaN.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    if function in ("euclidean", "manhattan"):
        order = 1 if function == "manhattan" else 2
        distances = [np.linalg.norm(b - row, ord=order, axis=1) for row in a]
        return -np.array(distances).reshape(len(a), len(b))
    if function == "cosine":
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b))
    products: Float64Array = a @ b.T
    return products


def cosine_similarities(a: Array, b: Array) -> Float64Array:
    """Return :func:`similarities` by cosine."""
    return similarities(a, b)
