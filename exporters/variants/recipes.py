"""From a tower's own graph to a faster one: a function for each precision. The gate judges what they make."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from exporters.calibration.activations import Samples
from exporters.graph.onnx_file import write_graph
from exporters.graph.statistics import take_census
from exporters.passes.fp16 import to_half
from exporters.passes.fuse import LAYOUT_FLAG, fuse, fuse_around_products
from exporters.passes.int8 import StaticQuantizer, quantize_dynamic
from exporters.variants.sensitivity import Cost, Sensitivity, find_sensitive
from runtime.artifact.variants import Calibration, CalibrationMethod, Level, Precision, Variant

# Who knows the operators of a level; TensorRT leaves what it does not know to CUDA, and OpenVINO to nobody.
_RUN_BY: Mapping[Level, tuple[str, ...]] = MappingProxyType(
    {
        "basic": ("cpu", "cuda", "tensorrt", "openvino"),
        "extended": ("cpu", "cuda", "tensorrt"),
        "all": ("cpu",),
    }
)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be made.

    Attributes:
        graph: The tower's own graph.
        output: The new file.
        level: How far it is optimized first.
        samples: Batches of the graph's inputs, from real items.
        wide_samples: Others, whose values are to fit the ranges, and by which nothing is judged.
        calibration: What is recorded of them.
        method: How int8's ranges follow from the values that were seen.
        min_cosine: Smallest cosine similarity to the tower's own graph that is aimed at on the samples.
        accept_batch_dependent: Whether int8 may take the range of each batch.
        costs: What 8 bits cost in each node, where an earlier attempt has measured it, which takes minutes.
    """

    graph: Path
    output: Path
    level: Level
    samples: Samples
    wide_samples: Samples
    calibration: Calibration
    method: CalibrationMethod
    min_cosine: float
    accept_batch_dependent: bool
    costs: tuple[Cost, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Made:
    """What was made, in the words of :class:`runtime.artifact.variants.Variant`, and how it came out.

    Attributes:
        sample_cosine: Smallest cosine similarity on the samples, where they were measured; the gate has others.
        costs: What 8 bits cost in each node, the worst first; empty where that had not to be measured.
    """

    level: Level
    providers: tuple[str, ...]
    external_data: str | None = None
    cpu_features: tuple[str, ...] = ()
    float_nodes: tuple[str, ...] = ()
    calibration: Calibration | None = None
    batch_invariant: bool = True
    sample_cosine: float | None = None
    costs: tuple[Cost, ...] = ()

    def describe_worst(self) -> str:
        """Returns which layers cost most, for a person who has to decide what to do about it."""
        worst = ", ".join(f"{cost.node} costs {cost.cost:.1e}" for cost in self.costs[:3])
        return f"{len(self.float_nodes)} nodes left in float; the worst layers: {worst}"

    def record(self) -> dict[str, Any]:
        """Returns what goes into the variant's record."""
        kept = {field.name for field in fields(Variant)}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name in kept}


def _make_optimized(order: Order) -> Made:
    external_data = fuse(order.graph, order.output, order.level)
    features = (LAYOUT_FLAG,) if order.level == "all" else ()
    return Made(level=order.level, providers=_RUN_BY[order.level], external_data=external_data, cpu_features=features)


def _make_fp16(order: Order) -> Made:
    """Fuses first, since on a GPU that is where the time goes; nothing of it is laid out for a CPU."""
    level: Level = "extended" if order.level == "all" else order.level
    with tempfile.TemporaryDirectory(dir=order.output.parent) as folder:
        fused = Path(folder, "fused.onnx")
        fuse(order.graph, fused, level, skips=True)
        half = to_half(fused, [*order.samples, *order.wide_samples])
        external_data = write_graph(order.output, half.model, fused=True)
    return Made(
        level=level,
        providers=_RUN_BY[level],
        external_data=external_data,
        float_nodes=half.float_nodes,
        calibration=replace(order.calibration, method=None),
    )


def _make_int8(order: Order) -> Made:
    """Fuses what lies around the products, and computes those in 8 bits."""
    with tempfile.TemporaryDirectory(dir=order.output.parent) as folder:
        graph = order.graph
        if order.level != "basic":
            graph = Path(folder, "fused.onnx")
            fuse_around_products(order.graph, graph)
        if order.accept_batch_dependent:
            quantized = quantize_dynamic(graph, order.output)
            return Made(level="none", providers=("cpu",), float_nodes=quantized.float32, batch_invariant=False)
        found = _quantize_statically(graph, order)
    foreign = take_census(order.output, None).foreign
    weights = order.output.with_name(f"{order.output.name}.data")
    return Made(
        level="extended" if foreign else "none",
        providers=("cpu",) if foreign else ("cpu", "openvino"),
        external_data=weights.name if weights.exists() else None,
        float_nodes=found.float_nodes,
        calibration=order.calibration,
        sample_cosine=found.min_cosine,
        costs=found.costs,
    )


def _quantize_statically(graph: Path, order: Order) -> Sensitivity:
    """Writes ``graph`` in 8 bits, with what has to stay in float for the cosine that is aimed at, or comes nearest."""
    samples = [*order.samples[::2], *order.wide_samples]
    with StaticQuantizer(graph, samples, method=order.method) as quantizer:
        found = find_sensitive(quantizer, order.samples[1::2], floor=order.min_cosine, costs=order.costs)
        quantizer.write(order.output, found.float_nodes)
    return found


MAKERS: Mapping[Precision, Callable[[Order], Made]] = MappingProxyType(
    {"fp32": _make_optimized, "fp16": _make_fp16, "int8": _make_int8}
)
