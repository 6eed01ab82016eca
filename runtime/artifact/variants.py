"""Variants of a graph: the same embedding computed faster or in less memory, each with the figures that let it pass."""

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
    """What a variant has to reach on real items that it was not calibrated with.

    Attributes:
        min_cosine: Smallest cosine similarity of an embedding to the one of the fp32 graph.
        min_overlap: Smallest mean share of an item's ten nearest neighbours that stay the same.
        min_invariance: Smallest cosine similarity of an embedding to that of the same item in another batch, with other
            padding, or by another number of threads.
    """

    min_cosine: float
    min_overlap: float
    min_invariance: float

    def __post_init__(self) -> None:
        """Refuses what nothing can reach."""
        for name, value in dataclasses.asdict(self).items():
            if not 0 <= value <= 1 or (value == 0 and name != "min_overlap"):
                raise UsageError(f"the floor {name} is {value}, it must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class VariantParity:
    """A variant against the fp32 graph, whose own parity with torch its tower records.

    Attributes:
        provider: Execution provider that ran both.
        items: Number of items; the golden ones are among them.
        min_cosine: Smallest cosine similarity of an embedding to the fp32 graph's.
        p1_cosine: Its first percentile.
        mean_cosine: Its mean.
        max_abs_error: Largest absolute difference of any value.
        reference_scale: Largest absolute value of the fp32 graph.
        neighbour_overlap: Mean share of an item's ten nearest neighbours that are also those by the fp32 graph.
        batch_cosine: Smallest cosine similarity of an embedding made alone to the one made in a batch, padded to its
            longest item.
        thread_cosine: Smallest cosine similarity of an embedding to the one made by another number of threads.
        floors: The bounds that these figures met.
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
    """The items from which the ranges of activations were taken.

    Attributes:
        source: Where they are from, for a person; and what else widens the ranges.
        items: Their number.
        sha256: Hash of what the graph was fed with.
        method: How a range follows from the values that were seen; ``None`` where only the largest counts.
    """

    source: str
    items: int
    sha256: str
    method: CalibrationMethod | None


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Another graph for the same tower.

    Attributes:
        precision: What it computes in, for the most part.
        level: How far it was optimized: ``basic`` keeps to ONNX's own operators, ``extended`` fuses into those of ONNX
            Runtime, ``all`` also lays weights out for the CPU that did it.
        graph: File name of the graph.
        external_data: File name of its weights, where they are too large to be inside it.
        providers: Execution providers that can run it.
        operators: Operators in it that are not ONNX's own, as ``domain:name``.
        cpu_features: What a CPU needs to run it, as Linux names its flags; any other would compute something else.
        float_nodes: Nodes that were left in a higher precision, since their values would not fit or cost too much.
        calibration: What it was calibrated with; ``None`` where nothing was.
        batch_invariant: Whether a vector does not depend on the batch it is computed in.
        onnxruntime: Version of ONNX Runtime with which its figures were measured.
        parity: Those figures.
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
        """Returns the names of the files that the variant adds to the artifact."""
        return tuple(name for name in (self.graph, self.external_data) if name)
