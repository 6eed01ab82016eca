"""Make int8 graphs exact in sessions with default settings.

On a CPU without VNNI, ONNX Runtime adds products of unsigned activations and signed weights in 16 bits and saturates.
The project's runtime avoids it by ``session.x64quantprecision``; other consumers do not set it. With unsigned weights
the kernels are exact on every CPU. On a CPU with VNNI they are slower.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.graph.initializers import add_initializer, initializer_array

_SHIFT = 128
_INPUTS = {"DequantizeLinear": (0, 2), "MatMulInteger": (1, 3)}  # positions of the weight and of its zero point


def use_unsigned_weights(model: ir.Model) -> None:
    """Store signed 8-bit weights with their zero points as unsigned ones; the dequantized values stay the same.

    Before: ``DequantizeLinear(int8 w, scale, int8 zero)``. After: ``DequantizeLinear(uint8 w + 128, scale, uint8
    zero + 128)``. The same for ``MatMulInteger``, of dynamic quantization.
    """
    shifted: set[ir.Value] = set()
    for node in model.graph:
        position, zero = _INPUTS.get(node.op_type, (0, 0))
        weight = node.inputs[position] if zero else None
        if (
            weight is None
            or not weight.is_initializer()
            or (weight.dtype != ir.DataType.INT8 and weight not in shifted)
        ):
            continue
        for value in (weight, _zero_point(model.graph, node, weight, zero)):
            if value not in shifted:
                values = initializer_array(value).astype(np.int16) + _SHIFT
                value.const_value = ir.tensor(values.astype(np.uint8), name=value.name)
                value.dtype = ir.DataType.UINT8
                shifted.add(value)


def _zero_point(graph: ir.Graph, node: ir.Node, weight: ir.Value, position: int) -> ir.Value:
    """Return the zero point of a node's weight, which is added if the node has none."""
    found = node.inputs[position] if len(node.inputs) > position else None
    if found is None:
        name, scale = f"{weight.name}/zero_point", node.inputs[1]
        shape = scale.shape if node.op_type == "DequantizeLinear" and scale is not None else None
        found = graph.initializers.get(name) or add_initializer(graph, name, np.zeros(tuple(shape or ()), np.int8))
        node.resize_inputs(max(position + 1, len(node.inputs)))
        node.replace_input_with(position, found)
    return found
