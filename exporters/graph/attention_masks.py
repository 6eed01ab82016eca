"""What fills the masked places of an attention mask: float32's lowest value, which is infinite in float16."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

# What a constant has to reach to be the filling of a mask (-1e9, float32's lowest value, infinity) and no number.
MASK_MAGNITUDE = 1e8
# What com.microsoft's Attention fills with, and BERT did: two of these on top of scores are finite in float16, and
# behind a Softmax they are as exact a zero as float32's lowest value.
# Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md (mask_filter_value)
MASK_FILLING = 10_000.0
LARGEST_HALF = 65504.0

# What moves a filling on. A Softmax ends it: there it becomes a zero.
_CARRIERS = (
    frozenset({"Where", "Add", "Sub", "Mul", "Div", "Neg", "Min", "Max", "Clip", "Cast", "Identity"})
    | {"Expand", "Reshape", "Flatten", "Unsqueeze", "Squeeze", "Transpose", "Slice", "Split", "Concat", "Tile", "Pad"}
    | {"Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND"}
)


def find_masked(graph: ir.Graph) -> set[str]:
    """Returns the names of the tensors that may hold a filling: constants, and what they are carried on to."""
    masked = {name for name, value in graph.initializers.items() if _holds_filling(value)}
    for node in graph:
        constant = node.op_type == "Constant" and _holds_filling(node.outputs[0])
        if constant or (node.op_type in _CARRIERS and any(value and value.name in masked for value in node.inputs)):
            masked.update(value.name or "" for value in node.outputs)
    return masked


def is_bound(node: ir.Node) -> bool:
    """Tells whether a filling that ``node`` takes is no filling but a bound which nothing reaches, as of Clip."""
    return node.op_type in {"Clip", "Min", "Max"}


def make_finite(array: np.ndarray[Any, Any], largest: float) -> np.ndarray[Any, Any]:
    """Returns a float32 constant with ``largest`` for its fillings; infinities stay, as float16 has them too."""
    fillings = (np.abs(array) >= MASK_MAGNITUDE) & np.isfinite(array)
    return np.where(fillings, np.copysign(np.float32(largest), array), array) if fillings.any() else array


def _holds_filling(value: ir.Value) -> bool:
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.dtype != ir.DataType.FLOAT:
        return False
    return bool((np.abs(tensor.numpy()) >= MASK_MAGNITUDE).any())
