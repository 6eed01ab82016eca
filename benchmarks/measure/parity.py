"""Compare the vectors of a case with reference vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.results.schema import CaseParity, Worst
from runtime.array_types import Array
from runtime.artifact.parity import measure_agreement, neighbour_overlap, row_cosines
from runtime.errors import EmbeddingBackbonesError

_WORST = 3
_NAME_LENGTH = 60


def measure_parity(reference: Array, vectors: Array, items: Sequence[str], reference_name: str) -> CaseParity:
    """Compare ``vectors`` with ``reference``, both ``[items, output_dim]``.

    ``items`` are the embedded texts, or names of files.

    Raises:
        EmbeddingBackbonesError: The shapes differ, or a vector has no direction.
    """
    if vectors.shape != reference.shape:
        raise EmbeddingBackbonesError(f"its vectors are {list(vectors.shape)}, the reference {list(reference.shape)}")
    if not (np.isfinite(vectors).all() and vectors.any(axis=1).all()):
        raise EmbeddingBackbonesError("its vectors contain NaN or infinity, or a vector of zeros")
    agreement = measure_agreement(reference, vectors)
    cosines = row_cosines(reference, vectors)
    worst = np.argsort(cosines, kind="stable")[:_WORST]
    return CaseParity(
        reference=reference_name,
        items=len(items),
        min_cosine=agreement.min_cosine,
        p1_cosine=agreement.p1_cosine,
        mean_cosine=agreement.mean_cosine,
        max_abs_error=agreement.max_abs_error,
        relative_error=agreement.max_abs_error / agreement.reference_scale,
        overlap_at_10=neighbour_overlap(reference, vectors),
        worst=tuple(Worst(item=_shorten(items[row]), cosine=float(cosines[row])) for row in worst),
    )


def _shorten(item: str) -> str:
    line = " ".join(item.split())
    return line if len(line) <= _NAME_LENGTH else line[:_NAME_LENGTH] + "..."
