"""Measure how close two sets of embeddings are, and record it. All judgements of parity use these measurements."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from runtime.array_types import Array, Float64Array
from runtime.artifact.similarity import SimilarityFunction, similarities
from runtime.artifact.variants import Variant
from runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Bounds on the difference of a graph from the torch reference."""

    min_cosine: float  # bound on the cosine similarity between an embedding and its reference
    # Bound on the absolute difference of any value, as a share of the largest absolute reference value.
    max_error: float
    # Bound on the Euclidean distance of an embedding to its reference, as a share of the distance between the two
    # closest references.
    max_distance_share: float

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not 0 < value <= 1:
                raise UsageError(f"the tolerance {name} is {value}, it must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The parity of the graph with torch on real inputs, as measured at export."""

    provider: str  # the execution provider that ran the graph
    items: int  # number of different inputs
    batch_sizes: tuple[int, ...]  # all inputs were embedded at each of these sizes
    min_cosine: float  # smallest cosine similarity to torch, over all batch sizes
    max_abs_error: float  # largest absolute difference to torch
    reference_scale: float  # largest absolute value of torch's embeddings
    max_batch_error: float  # largest absolute difference between a row embedded alone and the same row in a batch
    max_row_error: float  # largest Euclidean distance of an embedding to its reference
    min_distance: float  # smallest Euclidean distance between torch's embeddings of two different inputs
    tolerance: Tolerance  # the bounds that these measurements keep

    def __post_init__(self) -> None:
        """Raise :class:`UsageError` if there is no item."""
        if self.items < 1:
            raise UsageError(f"the parity was measured with {self.items} items, it needs at least 1")


@dataclass(frozen=True, kw_only=True)
class SimilarityParity:
    """The parity of the graphs with torch in the cosine similarities of texts to images."""

    texts: int
    images: int
    max_abs_error: float  # largest absolute difference of a similarity
    spread: float  # difference between torch's largest and smallest similarity


# For bfloat16, which has 8 bits of mantissa, and for TF32 and float16, which have 11. On two kinds of CPU, the golden
# items of ResNet50 had a cosine similarity of 1 - 2e-5 and 1 - 5e-5 in bfloat16. Those of BERT and MiniLM had 1 - 1e-5.
REDUCED_TOLERANCE = Tolerance(min_cosine=0.9999, max_error=0.1, max_distance_share=1.0)

_UNIT_ROUNDING = 1e-4


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Measurements of embeddings against reference embeddings."""

    min_cosine: float  # smallest cosine similarity of a row to its reference
    p1_cosine: float  # first percentile of the cosine similarity
    mean_cosine: float
    max_abs_error: float  # largest absolute difference of any value
    reference_scale: float  # largest absolute value of the reference
    max_row_error: float  # largest Euclidean distance of a row to its reference

    def within(self, tolerance: Tolerance) -> bool:
        """Return whether cosine and error keep the tolerance. NaN does not."""
        return (
            self.min_cosine >= tolerance.min_cosine and self.max_abs_error <= tolerance.max_error * self.reference_scale
        )


def measure_agreement(reference: Array, actual: Array) -> Agreement:
    """Compare ``actual`` with ``reference``, both ``[rows, dim]``, in float64."""
    reference, actual = reference.astype(np.float64), actual.astype(np.float64)
    cosines, difference = row_cosines(reference, actual), actual - reference
    return Agreement(
        min_cosine=float(cosines.min()),
        p1_cosine=float(np.percentile(cosines, 1)),
        mean_cosine=float(cosines.mean()),
        max_abs_error=float(np.abs(difference).max()),
        reference_scale=float(np.abs(reference).max()),
        max_row_error=float(np.linalg.norm(difference, axis=1).max()),
    )


def variant_tolerance(variant: Variant) -> Tolerance:
    """Return the bounds on a variant: its floor for the cosine similarity, and the loosest bounds for the rest."""
    return Tolerance(min_cosine=variant.parity.floors.min_cosine, max_error=1.0, max_distance_share=1.0)


def has_unit_length(vectors: Array) -> bool:
    """Return whether every row of ``vectors``, ``[rows, dim]``, has length 1, within the rounding of float32."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return bool((np.abs(lengths - 1) < _UNIT_ROUNDING).all())


def row_cosines(a: Array, b: Array) -> Float64Array:
    """Return the cosine similarity of each row of ``a`` to the same row of ``b``: ``[rows]`` float64, at most 1.

    A row of zeros has no direction: its similarity is NaN.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines: Float64Array = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return np.minimum(cosines, 1.0)


def neighbour_overlap(reference: Array, actual: Array, top: int = 10, function: SimilarityFunction = "cosine") -> float:
    """Return the mean share of the ``top`` nearest neighbours of a row that are the same in both sets.

    Both sets are ``[rows, dim]``. If there are fewer than ``top`` other rows, all of them are neighbours. ``function``
    gives the similarity of two rows.
    """
    top = min(top, len(reference) - 1)
    nearest = []
    for vectors in (reference, actual):
        found = similarities(vectors, vectors, function)
        np.fill_diagonal(found, -np.inf)
        nearest.append(np.argsort(-found, axis=1, kind="stable")[:, :top])
    shared = [len(set(a) & set(b)) for a, b in zip(*nearest, strict=True)]
    return float(np.mean(shared)) / top


def format_cosine(cosine: float) -> str:
    """Format a cosine similarity with its significant digits, such as ``1 - 4.5e-12``."""
    return f"1 - {1 - cosine:.1e}" if 0.999 < cosine < 1 else f"{cosine:.6g}"
