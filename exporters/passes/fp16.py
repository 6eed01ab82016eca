"""Moves a float32 graph to float16 for GPUs, and leaves in float32 what float16 would spoil.

``onnxruntime.transformers.float16`` does this too; of it only the list of operators is used here. Tried with
onnxruntime 1.31.1, its ``convert_float_to_float16`` rounds what passes between two nodes that it was told to leave in
float32 (there T5 becomes infinite), gives two such nodes that take the same tensor a cast of the same name each
(onnxruntime refuses the graph), cuts a constant that a float16 and a float32 node share to 65504 for both, and knows
the types behind com.microsoft's operators only where the graph states them.

That a float16 graph is finite on the CPU provider proves little: the provider runs float16 nodes in float32 and drops
the casts between them. A T5 made to overflow was finite there without a limit, and NaN where each node was rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from exporters.calibration.ranges import infer_types, measure_ranges
from exporters.errors import GraphError
from exporters.graph.attention_masks import (
    LARGEST_HALF,
    MASK_FILLING,
    MASK_MAGNITUDE,
    find_masked,
    is_bound,
    make_finite,
)
from exporters.passes.fp16_regions import close_gaps, find_float_regions
from exporters.passes.fp16_values import FloatGraph

SMALLEST_NORMAL = 2.0**-14  # below, float16 loses digits, and all of them at 2**-24
SAFE_LIMIT = LARGEST_HALF / 8  # other inputs than the samples may give larger values

# These outputs stay float32 in float16 nodes: mean and deviation.
_FLOAT_OUTPUTS = {
    "LayerNormalization": (1, 2),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (1, 2),
    "SkipSimplifiedLayerNormalization": (1, 2),
}


@dataclass(frozen=True)
class HalfGraph:
    """A graph in float16, whose inputs and outputs have the types that they had.

    Attributes:
        model: The graph.
        float_nodes: Names of the nodes that stayed in float32 because of their values, in the graph's order; not those
            that stay for what they do.
    """

    model: ir.Model
    float_nodes: tuple[str, ...]


def to_half(
    graph: Path, samples: Sequence[Mapping[str, np.ndarray[Any, Any]]], *, limit: float = SAFE_LIMIT
) -> HalfGraph:
    """Moves weights and activations of a float32 graph to float16.

    In float32 stay what :func:`exporters.passes.fp16_regions.find_float_regions` finds, and each node that takes or
    gives a tensor, or has weights, whose largest magnitude on the samples is above ``limit`` or below float16's
    smallest normal number.

    Args:
        graph: The ONNX file; its weights may lie beside it. Fused graphs are taken too.
        samples: Inputs by name, one mapping for each run; the more they are like what will come, the better.
        limit: The largest magnitude that may be in float16; infinity looks at no values.

    Returns:
        The float16 graph, in memory.

    Raises:
        GraphError: onnxruntime cannot load the graph, or run it on the samples.
        OSError: It cannot be read.
    """
    ranges, types = measure_ranges(graph, samples), infer_types(graph)
    model = ir.load(graph)
    _name_nodes(model.graph)
    values = FloatGraph(model.graph, types)
    regions = find_float_regions(values)
    ranged = set() if np.isinf(limit) else _find_out_of_range(values, ranges, limit) - regions
    kept = close_gaps(values, regions | ranged)
    half = frozenset(node for node in model.graph if node not in kept)
    _convert(_Plan(values, half, frozenset(find_masked(model.graph))))
    ir.external_data.load_to_model(model)
    return HalfGraph(model, tuple(node.name or "" for node in model.graph if node in ranged))


def _name_nodes(graph: ir.Graph) -> None:
    for node in graph:
        node.name = node.name or f"{node.op_type}_{node.outputs[0].name}"


def _find_out_of_range(graph: FloatGraph, ranges: Mapping[str, float], limit: float) -> set[ir.Node]:
    misfits = {name for name, largest in ranges.items() if not _fits(largest, limit)}
    misfits |= {name for name, weight in _weights(graph).items() if not _weight_fits(_array(weight), limit)}
    return {
        node
        for node in graph.graph
        if any(value.name in misfits for value in [*graph.inputs(node), *graph.outputs(node)])
    }


def _fits(largest: float, limit: float) -> bool:
    return largest == 0 or SMALLEST_NORMAL <= largest <= limit


def _weight_fits(array: np.ndarray[Any, Any], limit: float) -> bool:
    """Tells whether float16 can hold a weight or constant; the filling of a mask counts as nothing.

    A vector may vanish: as the bias of a folded BatchNorm does, beside results that are no smaller than their range
    says. A scalar may not: it may be what keeps a division from zero.
    """
    magnitude = np.abs(array)
    largest = float(np.max(magnitude, initial=0.0, where=magnitude < MASK_MAGNITUDE))
    return largest <= limit if array.ndim == 1 and array.size > 1 else _fits(largest, limit)


def _weights(graph: FloatGraph) -> dict[str, ir.Value]:
    return {name: value for name, value in graph.graph.initializers.items() if graph.is_float(value)}


@dataclass(frozen=True)
class _Plan:
    """What runs in float16.

    Attributes:
        graph: The graph.
        half: The nodes that do.
        masked: Names of the tensors that may hold the filling of a mask.
    """

    graph: FloatGraph
    half: frozenset[ir.Node]
    masked: frozenset[str]


def _convert(plan: _Plan) -> None:
    """Moves nodes to float16, with a cast wherever a value passes between them and the others."""
    graph = plan.graph
    given = [value for value in graph.graph.inputs if graph.is_float(value)]
    made = [value for node in graph.graph for value in graph.outputs(node)]
    weights = list(_weights(graph).values())
    for value in [*given, *made]:
        _convert_activation(plan, value)
    for value in weights:
        _convert_weight(plan, value)


def _convert_activation(plan: _Plan, value: ir.Value) -> None:
    """Casts ``value`` for those of its takers that want it in the other precision than it is made in."""
    is_half = _is_made_half(plan, value)
    takers = [use for use in value.uses() if (use.node in plan.half) != is_half]
    value.dtype = ir.DataType.FLOAT16 if is_half else ir.DataType.FLOAT
    if not takers:
        return
    source = _limit_masked(plan, value) if value.name in plan.masked and not is_half else value
    kind = ir.DataType.FLOAT if is_half else ir.DataType.FLOAT16
    _redirect(takers, _insert(plan, source, "Cast", [], kind))


def _is_made_half(plan: _Plan, value: ir.Value) -> bool:
    maker = value.producer()
    return maker is not None and maker in plan.half and value.index() not in _FLOAT_OUTPUTS.get(maker.op_type, ())


def _limit_masked(plan: _Plan, value: ir.Value) -> ir.Value:
    """Makes the filling of a mask finite before it is cast."""
    bounds = [
        _register(plan, f"{value.name}/{number:g}", np.float32(number)) for number in (-MASK_FILLING, MASK_FILLING)
    ]
    return _insert(plan, value, "Clip", bounds, ir.DataType.FLOAT)


def _insert(plan: _Plan, source: ir.Value, op_type: str, constants: Sequence[ir.Value], kind: ir.DataType) -> ir.Value:
    """Puts a node right behind the one that gives ``source``, and returns what it gives."""
    name = f"{source.name}/{op_type}"
    result = ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(source.shape) if source.shape else None)
    attributes = {"to": kind} if op_type == "Cast" else {}
    node = ir.node(op_type, [source, *constants], attributes, outputs=[result], name=name)
    maker, graph = source.producer(), plan.graph.graph
    if maker is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(maker, node)
    return result


def _convert_weight(plan: _Plan, value: ir.Value) -> None:
    """Gives the float16 nodes that take a weight or constant one of their own, and drops it if all do."""
    array, takers = _array(value), [use for use in value.uses() if use.node in plan.half]
    for suffix, largest in (("half", MASK_FILLING), ("half_bound", LARGEST_HALF)):
        uses = [use for use in takers if is_bound(use.node) == (suffix == "half_bound")]
        if uses:
            with np.errstate(over="ignore"):  # without a limit
                half = make_finite(array, largest).astype(np.float16)
            _redirect(uses, _register(plan, f"{value.name}/{suffix}", half))
    if takers and not value.uses():
        del plan.graph.graph.initializers[value.name or ""]


def _register(plan: _Plan, name: str, array: np.ndarray[Any, Any] | np.generic) -> ir.Value:
    tensor = ir.tensor(np.asarray(array), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(np.shape(array)), const_value=tensor)
    plan.graph.graph.register_initializer(value)
    return value


def _redirect(uses: Sequence[tuple[ir.Node, int]], value: ir.Value) -> None:
    for node, index in uses:
        node.replace_input_with(index, value)


def _array(value: ir.Value) -> np.ndarray[Any, Any]:
    if value.const_value is None:
        raise GraphError(f"the weight {value.name} of the graph has no values; export the model again")
    return value.const_value.numpy()
