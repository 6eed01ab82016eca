"""Convert a float32 graph to float16 for GPUs; nodes that float16 would spoil stay in float32.

``onnxruntime.transformers.float16`` does this too, but only its list of operators is used here.
Its ``convert_float_to_float16`` has four faults in onnxruntime 1.31.1:

- It rounds values between two nodes that were told to stay in float32. T5 becomes infinite there.
- It gives two casts the same name if two such nodes take the same tensor. onnxruntime refuses that graph.
- It cuts a constant that a float16 and a float32 node share to 65504 for both.
- It knows the types behind com.microsoft's operators only if the graph states them.

A float16 graph with finite results on the CPU provider proves little. That provider runs float16 nodes in float32 and
drops the casts between them. A T5 that overflows was finite there, and NaN after rounding at each node.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from exporters.calibration.magnitudes import infer_types, max_abs_values
from exporters.graph import attention_masks as masks
from exporters.graph.initializers import add_initializer, initializer_array
from exporters.passes.fp16_regions import close_gaps, find_fp32_regions
from exporters.passes.fp16_values import Fp32Dataflow
from runtime.array_types import Array, Feeds

FP16_MIN_NORMAL = 2.0**-14  # below it float16 loses digits, and all of them at 2**-24
SAFE_LIMIT = masks.FP16_MAX / 8  # other inputs than the calibration batches may give larger values

# Outputs of float16 nodes that stay float32: mean and deviation.
_FP32_OUTPUTS = {
    "LayerNormalization": (1, 2),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (1, 2),
    "SkipSimplifiedLayerNormalization": (1, 2),
}
_BOUNDED = frozenset({"Clip", "Min", "Max"})  # they take large constants as bounds that no value reaches


class Fp16Graph(NamedTuple):
    """A float16 graph whose inputs and outputs keep their types.

    Attributes:
        model: The graph.
        float_nodes: Names of the nodes that stay in float32 because of their values, in the graph's order. Nodes that
            stay because of their operator are not included.
    """

    model: ir.Model
    float_nodes: tuple[str, ...]


def to_fp16(graph: Path, batches: Sequence[Feeds]) -> Fp16Graph:
    """Convert the weights and activations of a float32 graph to float16.

    The nodes of :func:`exporters.passes.fp16_regions.find_fp32_regions` stay in float32. A node also stays if one of
    its inputs, outputs or weights is out of range on the batches: above :data:`SAFE_LIMIT`, or below float16's smallest
    normal number.

    Args:
        graph: The ONNX file, fused or not. Its weights may be in a second file.
        batches: Inputs by name, one mapping per run. They should be like the inputs of production.

    Raises:
        GraphError: onnxruntime cannot load the graph or run it on the batches.
        OSError: The graph cannot be read.
    """
    largest, types = max_abs_values(graph, batches), infer_types(graph)
    model = ir.load(graph)
    for node in model.graph:
        node.name = node.name or f"{node.op_type}_{node.outputs[0].name}"
    dataflow = Fp32Dataflow(model.graph, types)
    regions = find_fp32_regions(dataflow)
    out_of_range = _find_out_of_range(dataflow, largest) - regions
    kept = close_gaps(dataflow, regions | out_of_range)
    _Conversion(dataflow, {node for node in model.graph if node not in kept}).convert()
    ir.external_data.load_to_model(model)
    return Fp16Graph(model, tuple(node.name or "" for node in model.graph if node in out_of_range))


def _find_out_of_range(graph: Fp32Dataflow, largest: Mapping[str, float]) -> set[ir.Node]:
    misfits = {name for name, value in largest.items() if not _fits(value)}
    misfits |= {value.name or "" for value in graph.weights() if not _weight_fits(initializer_array(value))}
    return {
        node
        for node in graph.graph
        if any(value.name in misfits for value in [*graph.inputs(node), *graph.outputs(node)])
    }


def _fits(largest: float) -> bool:
    return largest == 0 or FP16_MIN_NORMAL <= largest <= SAFE_LIMIT


def _weight_fits(array: Array) -> bool:
    """Return whether float16 can hold a weight or constant; mask values do not count.

    A vector may become zero: the bias of a folded BatchNorm does, and the results it is added to are in range. A scalar
    may not: it may prevent a division by zero.
    """
    magnitude = np.abs(array)
    largest = float(np.max(magnitude, initial=0.0, where=magnitude < masks.MASK_THRESHOLD))
    return largest <= SAFE_LIMIT if array.ndim == 1 and array.size > 1 else _fits(largest)


class _Conversion:
    """The conversion of some nodes of a graph to float16, with a cast between each of them and a float32 node."""

    def __init__(self, dataflow: Fp32Dataflow, fp16_nodes: Collection[ir.Node]) -> None:
        self._dataflow, self._graph, self._fp16_nodes = dataflow, dataflow.graph, fp16_nodes
        self._masks = masks.find_masks(dataflow.graph)

    def convert(self) -> None:
        inputs = [value for value in self._graph.inputs if self._dataflow.is_float(value)]
        outputs = [value for node in self._graph for value in self._dataflow.outputs(node)]
        weights = self._dataflow.weights()  # before the conversion adds constants
        for value in [*inputs, *outputs]:
            self._convert_activation(value)
        for value in weights:
            self._convert_weight(value)

    def _convert_activation(self, value: ir.Value) -> None:
        """Cast ``value`` for its consumers in the other precision."""
        is_fp16 = self._is_produced_in_fp16(value)
        uses = [use for use in value.uses() if (use.node in self._fp16_nodes) != is_fp16]
        value.dtype = ir.DataType.FLOAT16 if is_fp16 else ir.DataType.FLOAT
        if uses:
            source = self._limit_mask(value) if value.name in self._masks and not is_fp16 else value
            dtype = ir.DataType.FLOAT if is_fp16 else ir.DataType.FLOAT16
            _redirect(uses, self._insert(source, "Cast", [], dtype))

    def _is_produced_in_fp16(self, value: ir.Value) -> bool:
        node = value.producer()
        return (
            node is not None and node in self._fp16_nodes and value.index() not in _FP32_OUTPUTS.get(node.op_type, ())
        )

    def _limit_mask(self, value: ir.Value) -> ir.Value:
        """Clip the mask values of ``value`` to finite float16 numbers before the cast."""
        largest = masks.FP16_MASK_VALUE
        bounds = [add_initializer(self._graph, f"{value.name}/{b:g}", np.float32(b)) for b in (-largest, largest)]
        return self._insert(value, "Clip", bounds, ir.DataType.FLOAT)

    def _insert(self, source: ir.Value, op_type: str, constants: Sequence[ir.Value], dtype: ir.DataType) -> ir.Value:
        """Insert a node directly after the producer of ``source``, and return the node's output."""
        name = f"{source.name}/{op_type}"
        result = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(source.shape) if source.shape else None)
        attributes = {"to": dtype} if op_type == "Cast" else {}
        node = ir.node(op_type, [source, *constants], attributes, outputs=[result], name=name)
        producer = source.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], node)
        else:
            self._graph.insert_after(producer, node)
        return result

    def _convert_weight(self, value: ir.Value) -> None:
        """Give float16 nodes a float16 copy of a weight or constant; delete the original if nothing else uses it."""
        array, fp16_uses = initializer_array(value), [use for use in value.uses() if use.node in self._fp16_nodes]
        for suffix, largest in (("half", masks.FP16_MASK_VALUE), ("half_bound", masks.FP16_MAX)):
            uses = [use for use in fp16_uses if (use.node.op_type in _BOUNDED) == (suffix == "half_bound")]
            if uses:
                converted = masks.limit_mask_values(array, largest).astype(np.float16)
                _redirect(uses, add_initializer(self._graph, f"{value.name}/{suffix}", converted))
        if fp16_uses and not value.uses():
            del self._graph.initializers[value.name or ""]


def _redirect(uses: Sequence[tuple[ir.Node, int]], value: ir.Value) -> None:
    for node, index in uses:
        node.replace_input_with(index, value)
