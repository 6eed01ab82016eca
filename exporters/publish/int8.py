"""Make int8 graphs exact in sessions with default settings.

On a CPU without VNNI, ONNX Runtime adds products of unsigned activations and signed weights in 16 bits and saturates.
The project's runtime avoids it by ``session.x64quantprecision``; other consumers do not set it. With unsigned weights
the kernels are exact on every CPU. On a CPU with VNNI they are slower.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

_SHIFT = 128
_INPUTS = {"DequantizeLinear": (0, 2), "MatMulInteger": (1, 3)}  # positions of the weight and of its zero point


def use_unsigned_weights(model: onnx.ModelProto) -> None:
    """Store signed 8-bit weights with their zero points as unsigned ones; the dequantized values stay the same.

    Before: ``DequantizeLinear(int8 w, scale, int8 zero)``. After: ``DequantizeLinear(uint8 w + 128, scale, uint8
    zero + 128)``. The same for ``MatMulInteger``, of dynamic quantization.
    """
    tensors = {each.name: each for each in model.graph.initializer}
    shifted: set[str] = set()
    for node in model.graph.node:
        position, zero = _INPUTS.get(node.op_type, (0, 0))
        weight = tensors.get(node.input[position]) if zero else None
        if weight is None or (weight.data_type != TensorProto.INT8 and weight.name not in shifted):
            continue
        if len(node.input) <= zero or not node.input[zero]:
            name = f"{weight.name}/zero_point"
            scale = tensors[node.input[1]].dims if node.op_type == "DequantizeLinear" else ()
            if name not in tensors:
                model.graph.initializer.append(numpy_helper.from_array(np.zeros(tuple(scale), np.int8), name))
                tensors[name] = model.graph.initializer[-1]
            node.input.extend([""] * (zero + 1 - len(node.input)))
            node.input[zero] = name
        for tensor in (weight, tensors[node.input[zero]]):
            if tensor.name not in shifted:
                values = numpy_helper.to_array(tensor).astype(np.int16) + _SHIFT
                tensor.CopyFrom(numpy_helper.from_array(values.astype(np.uint8), tensor.name))
                shifted.add(tensor.name)
