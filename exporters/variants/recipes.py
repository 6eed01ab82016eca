"""Write a faster graph from a tower's own graph, with one recipe per precision. The gate checks the result."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from exporters.calibration.activations import count_rows
from exporters.graph.onnx_file import write_graph
from exporters.graph.statistics import GraphStatistics, graph_statistics
from exporters.passes.compact import to_compact
from exporters.passes.fp16 import to_fp16
from exporters.passes.fuse import LAYOUT_FLAG, fuse
from exporters.passes.int8 import StaticQuantizer, quantize_dynamic
from exporters.progress import expect
from exporters.variants.batches import CalibrationBatches
from exporters.variants.options import VariantOptions
from exporters.variants.sensitivity import NodeCost, find_sensitive_nodes
from runtime.artifact.variants import Calibration, Level, Precision, Variant

# Providers that know the operators of a level. TensorRT would leave fused operators to CUDA, the bulk of the work.
_PROVIDERS: Mapping[Level, tuple[str, ...]] = {
    "basic": ("cpu", "cuda", "tensorrt", "openvino"),
    "extended": ("cpu", "cuda"),
    "all": ("cpu",),
}

_COMPACT_SHARE = 0.5  # of the bytes of the tower's own graph; a compact graph above it is not worth its rounding


@dataclass(frozen=True, kw_only=True)
class RecipeInputs:
    """Inputs of a recipe.

    Attributes:
        graph: The tower's own graph.
        before: Its statistics.
        output: The new ONNX file.
        options: Options of the variants.
        calibration: The calibration batches.
        min_cosine: Target: smallest cosine similarity to the tower's own graph on the calibration batches.
        costs: Cost of int8 in each node, if an earlier run has measured it; the measurement takes minutes.
    """

    graph: Path
    before: GraphStatistics
    output: Path
    options: VariantOptions
    calibration: CalibrationBatches
    min_cosine: float
    costs: tuple[NodeCost, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RecipeResult:
    """Fields of the new :class:`runtime.artifact.variants.Variant`, and measurements on the calibration batches.

    Attributes:
        calibration_cosine: Smallest cosine similarity on the calibration batches, if measured.
        costs: Cost of int8 in each node, the highest first; empty if not measured.
        needless: Why the new graph is of no use; empty if it is of use.
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
    needless: str = ""

    def describe_costs(self) -> str:
        """Return the number of float32 nodes and the nodes with the highest costs, as text for the user."""
        highest = ", ".join(f"{cost.node} costs {cost.cost:.1e}" for cost in self.costs[:3])
        kept = f"{len(self.float_nodes)} nodes stay in float32"
        return f"{kept}; the most sensitive nodes: {highest}" if highest else kept

    def record(self) -> dict[str, Any]:
        """Return the fields of the variant's record."""
        recorded = {field.name for field in fields(Variant)}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name in recorded}


def _optimize(inputs: RecipeInputs) -> RecipeResult:
    level = inputs.options.level
    external_data = fuse(inputs.graph, inputs.output, level)
    after = graph_statistics(inputs.output, external_data)
    is_same = after.nodes == inputs.before.nodes and not after.contrib_operators
    return RecipeResult(
        level=level,
        providers=_PROVIDERS[level],
        external_data=external_data,
        cpu_features=(LAYOUT_FLAG,) if level == "all" else (),
        needless=f"nothing was fused at level {level}" if is_same else "",
    )


def _convert_to_fp16(inputs: RecipeInputs) -> RecipeResult:
    """Fuse first, because fusion saves most of the time on a GPU."""
    level, calibration = inputs.options.level, inputs.calibration
    expect(count_rows(calibration.every_batch))
    with tempfile.TemporaryDirectory(dir=inputs.output.parent) as folder:
        fused = Path(folder, "fused.onnx")
        fuse(inputs.graph, fused, level, for_gpus=True)
        fp16 = to_fp16(fused, calibration.every_batch)
        external_data = write_graph(inputs.output, fp16.model, fused=True)
    result = RecipeResult(
        level=level,
        providers=_PROVIDERS[level],
        external_data=external_data,
        float_nodes=fp16.float_nodes,
        calibration=calibration.record,
    )
    return _check_weights(result, inputs.output, ir.DataType.FLOAT16, "fp16")


def _convert_to_int8(inputs: RecipeInputs) -> RecipeResult:
    """Fuse the operators around the matrix products, and quantize the products.

    Every second batch sets the ranges and the rounding, with the extra batches. As few nodes stay in float32 as reach
    the target cosine on the other batches.
    """
    with tempfile.TemporaryDirectory(dir=inputs.output.parent) as folder:
        graph = inputs.graph
        if inputs.options.level != "basic":
            graph = Path(folder, "fused.onnx")
            fuse(inputs.graph, graph, "extended", products=False)
        if inputs.options.accept_batch_dependent:
            external_data = quantize_dynamic(graph, inputs.output)
            result = RecipeResult(level="none", providers=("cpu",), external_data=external_data, batch_invariant=False)
            return _check_weights(result, inputs.output, ir.DataType.INT8, "int8")
        batches = inputs.calibration.batches
        extra, method = inputs.calibration.extra_batches, inputs.options.method or "minmax"
        expect(3 * count_rows(batches[::2]) + 9 * count_rows(extra) // 4 + 2 * count_rows(batches[1::2]))
        with StaticQuantizer(graph, batches[::2], extra, method=method) as quantizer:
            analysis = find_sensitive_nodes(quantizer, batches[1::2], floor=inputs.min_cosine, costs=inputs.costs)
            external_data = quantizer.write(inputs.output, analysis.float_nodes)
    contrib = graph_statistics(inputs.output, None).contrib_operators
    result = RecipeResult(
        level="extended" if contrib else "none",
        providers=("cpu",) if contrib else ("cpu", "openvino"),
        external_data=external_data,
        float_nodes=analysis.float_nodes,
        calibration=replace(inputs.calibration.record, method=method),
        calibration_cosine=analysis.min_cosine,
        costs=analysis.costs,
    )
    return _check_weights(result, inputs.output, ir.DataType.INT8, "int8")


def _compact(inputs: RecipeInputs) -> RecipeResult:
    """Fuse the operators around the matrix products, and store the weights of the products and tables in 8 bits."""
    calibration = inputs.calibration
    expect(count_rows(calibration.every_batch))
    with tempfile.TemporaryDirectory(dir=inputs.output.parent) as folder:
        graph = Path(folder, "fused.onnx")
        fuse(inputs.graph, graph, "extended", products=False)
        model = to_compact(graph, calibration.every_batch)
        external_data = write_graph(inputs.output, model, fused=True)
    share = graph_statistics(inputs.output, external_data).size_bytes / inputs.before.size_bytes
    return RecipeResult(
        level="extended",
        providers=("cpu",),
        external_data=external_data,
        calibration=calibration.record,
        needless=f"it has {share:.0%} of the bytes of fp32, above {_COMPACT_SHARE:.0%}"
        if share > _COMPACT_SHARE
        else "",
    )


def _check_weights(result: RecipeResult, graph: Path, weight_type: ir.DataType, name: str) -> RecipeResult:
    """Mark ``result`` as needless if no weight of the new ``graph`` has the type ``weight_type``."""
    if weight_type in graph_statistics(graph, result.external_data).weight_types:
        return result
    kept = f": {result.describe_costs()}" if result.float_nodes else ""
    return replace(result, needless=f"none of its weights is in {name}{kept}")


RECIPES: Mapping[Precision, Callable[[RecipeInputs], RecipeResult]] = {
    "fp32": _optimize,
    "fp16": _convert_to_fp16,
    "int8": _convert_to_int8,
    "compact": _compact,
}
