"""How far the vectors of a case are from those of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.results.schema import Parity, Worst
from runtime.artifact.parity import measure_agreement, neighbour_overlap
from runtime.errors import EmbeddingBackbonesError

_NAMED = 3
_NAME_LENGTH = 60
Array = np.ndarray[Any, Any]


def judge(reference: Array, vectors: Array, items: Sequence[str], reference_name: str) -> Parity:
    """Returns how ``vectors`` compare with ``reference``, both ``[items, output_dim]``.

    Args:
        reference: The vectors that are right.
        vectors: Those that are judged.
        items: What was embedded: texts, or names of files.
        reference_name: Who gave the reference.

    Raises:
        EmbeddingBackbonesError: A vector has no direction, so that nothing can be said of it.
    """
    if vectors.shape != reference.shape:
        raise EmbeddingBackbonesError(f"its vectors are {list(vectors.shape)}, the reference {list(reference.shape)}")
    if not (np.isfinite(vectors).all() and vectors.any(axis=1).all()):
        raise EmbeddingBackbonesError("its vectors hold NaN, infinity, or nothing but zeros")
    agreement = measure_agreement(reference, vectors)
    cosines = row_cosines(reference, vectors)
    worst = np.argsort(cosines, kind="stable")[:_NAMED]
    return Parity(
        reference=reference_name,
        items=len(items),
        min_cosine=agreement.min_cosine,
        p1_cosine=float(np.percentile(cosines, 1)),
        mean_cosine=float(cosines.mean()),
        max_abs_error=agreement.max_abs_error,
        relative_error=agreement.max_abs_error / agreement.reference_scale,
        overlap_at_10=neighbour_overlap(reference, vectors),
        worst=tuple(Worst(item=_shorten(items[row]), cosine=float(cosines[row])) for row in worst),
    )


def row_cosines(reference: Array, vectors: Array) -> Array:
    """Returns the cosine similarity of each row to its reference, ``[items]`` float64, at most 1."""
    reference, vectors = reference.astype(np.float64), vectors.astype(np.float64)
    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(vectors, axis=1)
    return np.asarray(np.minimum((reference * vectors).sum(axis=1) / norms, 1.0))


def _shorten(item: str) -> str:
    line = " ".join(item.split())
    return line if len(line) <= _NAME_LENGTH else line[:_NAME_LENGTH] + "..."
