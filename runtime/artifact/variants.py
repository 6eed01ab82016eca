"""Variants of a graph: faster or smaller graphs for the same embeddings, with the measurements of their parity."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from runtime.errors import UsageError

VariantName = Literal["fp32", "optimized", "fp16", "int8", "compact"]
VARIANT_NAMES: tuple[VariantName, ...] = get_args(VariantName)
Precision = Literal["fp32", "fp16", "int8", "compact"]  # ``compact``: weights in 8 bits, activations in float32
Level = Literal["none", "basic", "extended", "all"]
CalibrationMethod = Literal["minmax", "entropy", "percentile"]


@dataclass(frozen=True, kw_only=True)
class Floors:
    """Lower bounds for a variant, measured on real items that it was not calibrated with."""

    min_cosine: float  # bound on the smallest cosine similarity of an embedding to that of the fp32 graph
    min_overlap: float  # bound on the mean share of the ten nearest neighbours of an item that stay the same
    # Bound on the cosine similarity of two embeddings of an item, computed in different batches, with different
    # padding, or by different numbers of threads.
    min_invariance: float

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not 0 <= value <= 1 or (value == 0 and name != "min_overlap"):
                raise UsageError(f"the floor {name} is {value}, it must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class VariantParity:
    """The parity of a variant with the fp32 graph. The tower records the parity of that graph with torch."""

    provider: str  # the execution provider that ran both graphs
    items: int  # number of items, the golden ones included
    min_cosine: float  # smallest cosine similarity of an embedding to that of the fp32 graph
    p1_cosine: float  # first percentile of the cosine similarity
    mean_cosine: float
    max_abs_error: float  # largest absolute difference of any value
    reference_scale: float  # largest absolute value of the fp32 graph's embeddings
    neighbour_overlap: float  # mean share of the ten nearest neighbours of an item that are the same by the fp32 graph
    # Smallest cosine similarity of an embedding computed alone to the one computed in a padded batch.
    batch_cosine: float
    thread_cosine: float  # smallest cosine similarity of an embedding to the one computed by another number of threads
    floors: Floors  # the bounds that these measurements keep


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The items that the variant was calibrated with.

    They set the ranges of activations. For int8, a half sets them, and the other half chooses the ``float_nodes``.
    """

    source: str  # description of the items and of the extra batches that widen the ranges
    items: int
    sha256: str  # hash of the inputs of the graph
    # How a range is computed from the observed values; ``None`` if only the largest value counts.
    method: CalibrationMethod | None


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Another graph for the same tower."""

    precision: Precision  # precision of most of its nodes
    # How far it was optimized. ``basic`` uses only operators of ONNX. ``extended`` uses fused operators of ONNX
    # Runtime. ``all`` also lays out weights for the CPU that optimized it.
    level: Level
    graph: str  # file name of the graph
    # File name of weights that are not inside the graph. It may be that of the tower, which then shares them.
    external_data: str | None = None
    providers: tuple[str, ...]  # the execution providers that can run it
    operators: tuple[str, ...] = ()  # its operators that are not part of ONNX, as ``domain:name``
    cpu_features: tuple[str, ...] = ()  # Linux names of CPU flags; a CPU without them computes wrong results
    float_nodes: tuple[str, ...] = ()  # nodes in a higher precision, to keep their values in range or exact
    calibration: Calibration | None = None  # ``None`` if it was not calibrated
    batch_invariant: bool = True  # whether a vector does not depend on the other items of its batch
    onnxruntime: str  # the version of ONNX Runtime that its parity was measured with
    parity: VariantParity

    def __post_init__(self) -> None:
        """Raise :class:`UsageError` if no provider can run it."""
        if not self.providers:
            raise UsageError("providers is empty: the variant needs at least one that can run it")

    def files(self) -> tuple[str, ...]:
        """Return the names of the files that the variant needs; one of them may be the tower's ``external_data``."""
        return tuple(name for name in (self.graph, self.external_data) if name)
