"""From a tower's own graph to a faster one: a function for each precision. The gate judges what they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from exporters.passes.fuse import LAYOUT_FLAG, fuse
from runtime.variants import Calibration, CalibrationMethod, Level, Precision

# Who knows the operators of a level; TensorRT leaves what it does not know to CUDA, and OpenVINO to nobody.
_RUN_BY: Mapping[Level, tuple[str, ...]] = MappingProxyType(
    {
        "basic": ("cpu", "cuda", "tensorrt", "openvino"),
        "extended": ("cpu", "cuda", "tensorrt"),
        "all": ("cpu",),
    }
)
Samples = Sequence[Mapping[str, np.ndarray[Any, Any]]]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be made.

    Attributes:
        graph: The tower's own graph.
        output: The new file.
        level: How far it is optimized first.
        samples: Batches of the graph's inputs, from real items.
        calibration: What is recorded of them.
        method: How int8's ranges follow from the values that were seen.
        min_cosine: Smallest cosine similarity to the tower's own graph that is to be kept.
        accept_batch_dependent: Whether int8 may take the range of each batch.
    """

    graph: Path
    output: Path
    level: Level
    samples: Samples
    calibration: Calibration
    method: CalibrationMethod
    min_cosine: float
    accept_batch_dependent: bool


@dataclass(frozen=True, kw_only=True)
class Made:
    """What was made, in the words of :class:`runtime.variants.Variant`."""

    level: Level
    providers: tuple[str, ...]
    external_data: str | None = None
    cpu_features: tuple[str, ...] = ()
    float_nodes: tuple[str, ...] = ()
    calibration: Calibration | None = None
    batch_invariant: bool = True


def _make_optimized(order: Order) -> Made:
    external_data = fuse(order.graph, order.output, order.level)
    features = (LAYOUT_FLAG,) if order.level == "all" else ()
    return Made(level=order.level, providers=_RUN_BY[order.level], external_data=external_data, cpu_features=features)


MAKERS: Mapping[Precision, Callable[[Order], Made]] = MappingProxyType({"fp32": _make_optimized})
