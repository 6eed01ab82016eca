"""Find the mask values of attention: large negative constants such as float32's minimum, infinite in float16."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from runtime.array_types import Array

# A constant of at least this magnitude (-1e9, float32's minimum, infinity) is a mask value and not a number.
MASK_THRESHOLD = 1e8
# The mask value of com.microsoft's Attention and of BERT. The sum of two of them and a score is finite in float16.
# After a Softmax they give the same exact zero as float32's minimum.
# Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md (mask_filter_value)
FP16_MASK_VALUE = 10_000.0
FP16_MAX = 65504.0

# Operators that pass a mask value on. A Softmax does not: it turns the value into zero.
_PASSING_OPERATORS = (
    frozenset({"Where", "Add", "Sub", "Mul", "Div", "Neg", "Min", "Max", "Clip", "Cast", "Identity"})
    | {"Expand", "Reshape", "Flatten", "Unsqueeze", "Squeeze", "Transpose", "Slice", "Split", "Concat", "Tile", "Pad"}
    | {"Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND"}
)


def find_masks(graph: ir.Graph) -> set[str]:
    """Return the names of tensors that may hold mask values: constants, and the tensors computed from them."""
    masks = {name for name, value in graph.initializers.items() if _holds_mask_value(value)}
    for node in graph:
        passes = node.op_type in _PASSING_OPERATORS and any(value and value.name in masks for value in node.inputs)
        if passes or (node.op_type == "Constant" and _holds_mask_value(node.outputs[0])):
            masks.update(value.name or "" for value in node.outputs)
    return masks


def limit_mask_values(array: Array, largest: float) -> Array:
    """Return a float32 constant with its mask values set to ``largest``; infinities stay, float16 has them too."""
    mask_values = (np.abs(array) >= MASK_THRESHOLD) & np.isfinite(array)
    return np.where(mask_values, np.copysign(np.float32(largest), array), array) if mask_values.any() else array


def _holds_mask_value(value: ir.Value) -> bool:
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.dtype != ir.DataType.FLOAT:
        return False
    return bool((np.abs(tensor.numpy()) >= MASK_THRESHOLD).any())
