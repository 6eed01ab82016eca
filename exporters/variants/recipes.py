"""Write a faster graph from a tower's own graph, with one recipe per precision. The gate checks the result."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from exporters.graph.onnx_file import write_graph
from exporters.graph.statistics import graph_statistics
from exporters.passes.fp16 import to_fp16
from exporters.passes.fuse import LAYOUT_FLAG, fuse, fuse_around_products
from exporters.passes.int8 import StaticQuantizer, quantize_dynamic
from exporters.variants.batches import CalibrationBatches
from exporters.variants.sensitivity import NodeCost, SensitivityAnalysis, find_sensitive_nodes
from runtime.artifact.variants import Calibration, CalibrationMethod, Level, Precision, Variant

# Providers that know the operators of a level. TensorRT leaves unknown operators to CUDA; OpenVINO refuses them.
_PROVIDERS: Mapping[Level, tuple[str, ...]] = MappingProxyType(
    {
        "basic": ("cpu", "cuda", "tensorrt", "openvino"),
        "extended": ("cpu", "cuda", "tensorrt"),
        "all": ("cpu",),
    }
)


@dataclass(frozen=True, kw_only=True)
class RecipeInputs:
    """Inputs of a recipe.

    Attributes:
        graph: The tower's own graph.
        output: The new ONNX file.
        level: Optimization level.
        calibration: The calibration batches.
        method: Calibration method of int8.
        min_cosine: Target: smallest cosine similarity to the tower's own graph on the calibration batches.
        accept_batch_dependent: Whether int8 may use dynamic quantization.
        costs: Cost of int8 in each node, if an earlier run has measured it; the measurement takes minutes.
    """

    graph: Path
    output: Path
    level: Level
    calibration: CalibrationBatches
    method: CalibrationMethod
    min_cosine: float
    accept_batch_dependent: bool
    costs: tuple[NodeCost, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RecipeResult:
    """Fields of the new :class:`runtime.artifact.variants.Variant`, and measurements on the calibration batches.

    Attributes:
        calibration_cosine: Smallest cosine similarity on the calibration batches, if measured.
        costs: Cost of int8 in each node, the highest first; empty if not measured.
    """

    level: Level
    providers: tuple[str, ...]
    external_data: str | None = None
    cpu_features: tuple[str, ...] = ()
    float_nodes: tuple[str, ...] = ()
    calibration: Calibration | None = None
    batch_invariant: bool = True
    calibration_cosine: float | None = None
    costs: tuple[NodeCost, ...] = ()

    def describe_costs(self) -> str:
        """Return the number of float32 nodes and the nodes with the highest costs, as text for the user."""
        highest = ", ".join(f"{cost.node} costs {cost.cost:.1e}" for cost in self.costs[:3])
        return f"{len(self.float_nodes)} nodes stay in float32; the most sensitive nodes: {highest}"

    def record(self) -> dict[str, Any]:
        """Return the fields of the variant's record."""
        recorded = {field.name for field in fields(Variant)}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name in recorded}


def _optimize(inputs: RecipeInputs) -> RecipeResult:
    level = inputs.level
    external_data = fuse(inputs.graph, inputs.output, level)
    features = (LAYOUT_FLAG,) if level == "all" else ()
    return RecipeResult(level=level, providers=_PROVIDERS[level], external_data=external_data, cpu_features=features)


def _convert_to_fp16(inputs: RecipeInputs) -> RecipeResult:
    """Fuse first, because fusion saves most of the time on a GPU; skip the optimizations for this CPU."""
    level: Level = "extended" if inputs.level == "all" else inputs.level
    calibration = inputs.calibration
    with tempfile.TemporaryDirectory(dir=inputs.output.parent) as folder:
        fused = Path(folder, "fused.onnx")
        fuse(inputs.graph, fused, level, skips=True)
        fp16 = to_fp16(fused, [*calibration.batches, *calibration.extra_batches])
        external_data = write_graph(inputs.output, fp16.model, fused=True)
    return RecipeResult(
        level=level,
        providers=_PROVIDERS[level],
        external_data=external_data,
        float_nodes=fp16.float_nodes,
        calibration=replace(calibration.record, method=None),
    )


def _convert_to_int8(inputs: RecipeInputs) -> RecipeResult:
    """Fuse the operators around the matrix products, and quantize the products."""
    with tempfile.TemporaryDirectory(dir=inputs.output.parent) as folder:
        graph = inputs.graph
        if inputs.level != "basic":
            graph = Path(folder, "fused.onnx")
            fuse_around_products(inputs.graph, graph)
        if inputs.accept_batch_dependent:
            quantize_dynamic(graph, inputs.output)
            return RecipeResult(level="none", providers=("cpu",), batch_invariant=False)
        analysis = _quantize_statically(graph, inputs)
    contrib = graph_statistics(inputs.output, None).contrib_operators
    weights = inputs.output.with_name(f"{inputs.output.name}.data")
    return RecipeResult(
        level="extended" if contrib else "none",
        providers=("cpu",) if contrib else ("cpu", "openvino"),
        external_data=weights.name if weights.exists() else None,
        float_nodes=analysis.float_nodes,
        calibration=inputs.calibration.record,
        calibration_cosine=analysis.min_cosine,
        costs=analysis.costs,
    )


def _quantize_statically(graph: Path, inputs: RecipeInputs) -> SensitivityAnalysis:
    """Write an int8 graph with as few float32 nodes as reach the target cosine; half of the batches measure it."""
    batches = inputs.calibration.batches
    with StaticQuantizer(graph, [*batches[::2], *inputs.calibration.extra_batches], method=inputs.method) as quantizer:
        analysis = find_sensitive_nodes(quantizer, batches[1::2], floor=inputs.min_cosine, costs=inputs.costs)
        quantizer.write(inputs.output, analysis.float_nodes)
    return analysis


RECIPES: Mapping[Precision, Callable[[RecipeInputs], RecipeResult]] = MappingProxyType(
    {"fp32": _optimize, "fp16": _convert_to_fp16, "int8": _convert_to_int8}
)
