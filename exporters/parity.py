"""The gate of an export: a graph has to agree with torch on real inputs, alone and in batches.

One side is the artifact as users run it, through ``runtime.Embedder``, with the runtime's preprocessing. The other
side is the unmodified model with the preprocessing of its own library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exporters.errors import ParityError
from runtime.array_types import Float32Array
from runtime.artifact.manifest import TowerName
from runtime.artifact.parity import Agreement, Parity, SimilarityParity, Tolerance, format_cosine, measure_agreement
from runtime.artifact.similarity import similarities
from runtime.errors import NonFiniteError
from runtime.inference.embedder import Embedder
from runtime.inference.pipeline import Pipeline
from runtime.inference.tower import row_cost
from runtime.inference.truncation import without_truncation_warning

_BATCH_TOKENS = 6000  # 10 texts of 512 tokens, padding included; 4 of 1,500


def measure_parity(
    model: Embedder, tower: TowerName, items: Sequence[Any], reference: Float32Array, tolerance: Tolerance
) -> tuple[Parity, Float32Array]:
    """Compare one tower of ``model`` with torch.

    Args:
        model: The loaded artifact.
        tower: Name of the tower.
        items: At least three different inputs.
        reference: ``[items, output_dim]``: torch's embeddings of the inputs.
        tolerance: Bounds on cosine similarity and errors.

    Returns:
        The measurements, all within bounds, and the embeddings at batch size 1, ``[items, output_dim]``.

    Raises:
        ParityError: A measurement is out of bounds; the message holds all of them.
    """
    sizes = batch_sizes(len(items), longest_text(model, tower, items))
    try:
        with without_truncation_warning():
            by_size = {size: model.embed(items, tower=tower, batch_size=size) for size in sizes}
    except NonFiniteError as exc:
        raise ParityError(f"{exc}; torch's embeddings of the same inputs are finite") from exc
    agreement = measure_agreement(np.tile(reference, (len(sizes), 1)), np.concatenate(list(by_size.values())))
    parity = Parity(
        provider=model.provider,
        items=len(items),
        batch_sizes=sizes,
        min_cosine=agreement.min_cosine,
        max_abs_error=agreement.max_abs_error,
        reference_scale=agreement.reference_scale,
        max_batch_error=max(float(np.abs(vectors - by_size[1]).max()) for vectors in by_size.values()),
        max_row_error=agreement.max_row_error,
        min_distance=_min_distance(reference),
        tolerance=tolerance,
    )
    _check(parity, agreement)
    return parity, by_size[1]


def measure_similarity(
    vectors: Mapping[TowerName, Float32Array], references: Mapping[TowerName, Float32Array], tolerance: Tolerance
) -> SimilarityParity:
    """Compare similarities of texts and images with those of torch, and return the measurements, all within bounds.

    Args:
        vectors: The artifact's embeddings of ``text`` and ``image`` inputs, each ``[items, output_dim]``.
        references: torch's embeddings of the same inputs.
        tolerance: Bounds on the error, and on its share of the range of similarities.

    Raises:
        ParityError: The error is out of bounds; the message holds the measurements.
    """
    expected = similarities(references["text"], references["image"])
    parity = SimilarityParity(
        texts=len(vectors["text"]),
        images=len(vectors["image"]),
        max_abs_error=float(np.abs(similarities(vectors["text"], vectors["image"]) - expected).max()),
        spread=float(np.ptp(expected)),
    )
    bound = min(tolerance.max_error, tolerance.max_distance_share * parity.spread)
    if not parity.max_abs_error <= bound:
        raise ParityError(
            f"similarities between texts and images differ from torch's by up to {parity.max_abs_error:.2g} (at most "
            f"{bound:.2g}; they span {parity.spread:.2g}); if you accept this difference, raise --max-error or "
            "--max-distance-share"
        )
    return parity


def check_reference(reference: Float32Array) -> None:
    """Check, before the graph is traced, that torch's embeddings are finite and different.

    Raises:
        ParityError: They hold NaN or infinity, or two different inputs have the same embedding.
    """
    if not np.isfinite(reference).all():
        raise ParityError(
            "torch's own embeddings hold NaN or infinity: the weights are damaged, or the pooling overflows; check "
            "the file, or use another pooling"
        )
    if not _min_distance(reference) > 0:
        raise ParityError(
            "torch itself gives two different inputs the same vector: the weights are damaged or were never trained; "
            "check the file"
        )


def batch_sizes(items: int, longest: int = 0) -> tuple[int, ...]:
    """Return the batch sizes of the comparison: 1, 3, and all ``items`` together, or as many as memory allows.

    A model of long texts needs memory for the square of their length: ``longest`` is the number of tokens.
    """
    return tuple(sorted({1, 3, min(items, max(3, _BATCH_TOKENS // max(longest, 1)))}))


def longest_text(model: Embedder, tower: TowerName, items: Sequence[Any]) -> int:
    """Return the largest number of tokens of an item; 0 for other items than texts."""
    if tower != "text" or not isinstance(model.backend, Pipeline):
        return 0
    return max(row_cost(row) for row in model.backend.towers[tower].prepare(items) if not isinstance(row, Exception))


def _check(parity: Parity, agreement: Agreement) -> None:
    tolerance = parity.tolerance
    bound = tolerance.max_error * parity.reference_scale
    faults = []
    if not agreement.within(tolerance):
        faults.append("the graph differs from torch")
    if not parity.max_batch_error <= bound:
        faults.append("a row's vector depends on its batch")
    if not parity.max_row_error <= tolerance.max_distance_share * parity.min_distance:
        faults.append("the graph's error is not small compared with the distance between different inputs")
    if faults:
        raise ParityError(
            f"{'; '.join(faults)}: min cosine {format_cosine(parity.min_cosine)} (at least "
            f"{format_cosine(tolerance.min_cosine)}), max abs error {parity.max_abs_error:.2g} and "
            f"{parity.max_batch_error:.2g} between batch sizes {', '.join(map(str, parity.batch_sizes))} (at most "
            f"{bound:.2g}), max row error {parity.max_row_error:.2g} (at most {tolerance.max_distance_share:.2g} of "
            f"{parity.min_distance:.2g}, the smallest distance between {parity.items} inputs); if you accept this "
            "difference, relax --min-cosine, --max-error or --max-distance-share"
        )


def _min_distance(vectors: Float32Array) -> float:
    exact = vectors.astype(np.float64)
    distances = np.linalg.norm(exact[:, None] - exact[None], axis=2)
    return float(distances[~np.eye(len(exact), dtype=bool)].min())
