"""Variants of a graph: faster or smaller graphs for the same embeddings, with the measurements of their parity."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from runtime.errors import UsageError

VariantName = Literal["fp32", "optimized", "fp16", "int8"]
VARIANT_NAMES: tuple[VariantName, ...] = get_args(VariantName)
Precision = Literal["fp32", "fp16", "int8"]
Level = Literal["none", "basic", "extended", "all"]
CalibrationMethod = Literal["minmax", "entropy", "percentile"]


@dataclass(frozen=True, kw_only=True)
class Floors:
    """Lower bounds for a variant, measured on real items that it was not calibrated with.

    Attributes:
        min_cosine: Bound on the smallest cosine similarity of an embedding to that of the fp32 graph.
        min_overlap: Bound on the mean share of the ten nearest neighbours of an item that stay the same.
        min_invariance: Bound on the cosine similarity of two embeddings of an item, computed in different batches, with
            different padding, or by different numbers of threads.
    """

    min_cosine: float
    min_overlap: float
    min_invariance: float

    def __post_init__(self) -> None:
        """Check the values."""
        for name, value in dataclasses.asdict(self).items():
            if not 0 <= value <= 1 or (value == 0 and name != "min_overlap"):
                raise UsageError(f"the floor {name} is {value}, it must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class VariantParity:
    """The parity of a variant with the fp32 graph. The tower records the parity of that graph with torch.

    Attributes:
        provider: Execution provider that ran both.
        items: Number of items, the golden ones included.
        min_cosine: Smallest cosine similarity of an embedding to that of the fp32 graph.
        p1_cosine: First percentile of the cosine similarity.
        mean_cosine: Mean of the cosine similarity.
        max_abs_error: Largest absolute difference of any value.
        reference_scale: Largest absolute value of the fp32 graph's embeddings.
        neighbour_overlap: Mean share of the ten nearest neighbours of an item that are the same by the fp32 graph.
        batch_cosine: Smallest cosine similarity of an embedding computed alone to the one computed in a padded batch.
        thread_cosine: Smallest cosine similarity of an embedding to the one computed by another number of threads.
        floors: The bounds that these measurements keep.
    """

    provider: str
    items: int
    min_cosine: float
    p1_cosine: float
    mean_cosine: float
    max_abs_error: float
    reference_scale: float
    neighbour_overlap: float
    batch_cosine: float
    thread_cosine: float
    floors: Floors


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The items that the ranges of activations were computed from.

    Attributes:
        source: Description of the items and of the extra batches that widen the ranges.
        items: Number of items.
        sha256: Hash of the inputs of the graph.
        method: How a range is computed from the observed values; ``None`` if only the largest value counts.
    """

    source: str
    items: int
    sha256: str
    method: CalibrationMethod | None


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Another graph for the same tower.

    Attributes:
        precision: The precision of most of its nodes.
        level: How far it was optimized. ``basic`` uses only operators of ONNX. ``extended`` uses fused operators of
            ONNX Runtime. ``all`` also lays out weights for the CPU that optimized it.
        graph: File name of the graph.
        external_data: File name of its weights, if they are too large to be inside it.
        providers: Execution providers that can run it.
        operators: Its operators that are not part of ONNX, as ``domain:name``.
        cpu_features: Linux names of the CPU flags that it needs. Another CPU would compute wrong results.
        float_nodes: Nodes that were kept in a higher precision, to keep their values in range or exact.
        calibration: Record of its calibration; ``None`` if it was not calibrated.
        batch_invariant: Whether a vector does not depend on the other items of its batch.
        onnxruntime: Version of ONNX Runtime that its parity was measured with.
        parity: Its parity with the fp32 graph.
    """

    precision: Precision
    level: Level
    graph: str
    external_data: str | None = None
    providers: tuple[str, ...]
    operators: tuple[str, ...] = ()
    cpu_features: tuple[str, ...] = ()
    float_nodes: tuple[str, ...] = ()
    calibration: Calibration | None = None
    batch_invariant: bool = True
    onnxruntime: str
    parity: VariantParity

    def files(self) -> tuple[str, ...]:
        """Return the names of the files that the variant adds to the artifact."""
        return tuple(name for name in (self.graph, self.external_data) if name)
