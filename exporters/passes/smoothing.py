"""Evens out the channels that go into a matrix product, so that one int8 scale serves them all.

A transformer's activations have a few channels of ten times the others' size, for which the others lose their bits.
Each channel is divided by a factor and the weights' row multiplied by it.
Source: SmoothQuant, equation 4 (https://arxiv.org/abs/2211.10438).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from exporters.calibration import Array, add_constant
from exporters.errors import GraphError

ALPHA = 0.7  # on MiniLM 0.5 to 0.7 lie within noise of one another after a LayerNorm, and 0.8 is worse
_SMALLEST = 1e-5  # of a channel that is never used


def products(model: ir.Model) -> list[ir.Node]:
    """Returns the MatMuls by constant matrices, whose first input is computed."""
    return [
        node
        for node in model.graph
        if node.op_type == "MatMul"
        and _constant(node.inputs[1]) is not None
        and node.inputs[0] is not None
        and node.inputs[0].producer() is not None
    ]


def input_channels(model: ir.Model) -> dict[str, int]:
    """Returns how many channels each tensor has that goes into one of :func:`products`."""
    return {str(_input(node).name): len(_weights(node)) for node in products(model)}


def smooth_channels(model: ir.Model, peaks: Mapping[str, Array], alpha: float = ALPHA) -> None:
    """Puts a multiplication before the products of each tensor in ``peaks``.

    Before: products take the tensor itself. After: they take it with its channels evened out, and their weights make up
    for it; the graph's results are the same but for rounding. Everybody else still takes the tensor itself.

    Args:
        model: The graph, which is changed.
        peaks: The largest absolute value of each channel, ``[channels]`` float32, by tensor.
        alpha: How much of the unevenness goes into the weights, 0 to 1.
    """
    groups: dict[str, list[ir.Node]] = defaultdict(list)
    for node in products(model):
        groups[str(_input(node).name)].append(node)
    for name, peak in peaks.items():
        _smooth(model.graph, groups[name], _factors(groups[name], peak, alpha))


def _factors(nodes: Sequence[ir.Node], peak: Array, alpha: float) -> Array:
    rows = np.max([np.abs(_weights(node)).max(axis=1) for node in nodes], axis=0)
    logarithms = alpha * np.log(np.maximum(peak, _SMALLEST)) - (1 - alpha) * np.log(np.maximum(rows, _SMALLEST))
    factors: Array = np.exp(logarithms - logarithms.mean()).astype(np.float32)
    return factors


def _smooth(graph: ir.Graph, nodes: Sequence[ir.Node], factors: Array) -> None:
    value = _input(nodes[0])
    inverse = add_constant(graph, f"{value.name}/smoothing", 1 / factors)
    even = ir.node("Mul", [value, inverse], name=f"{value.name}/smooth")
    even.outputs[0].name = f"{value.name}/even"
    even.outputs[0].shape, even.outputs[0].type = value.shape, value.type
    graph.insert_before(nodes[0], even)
    for node in nodes:
        weights = (_weights(node) * factors[:, None]).astype(np.float32)
        node.replace_input_with(0, even.outputs[0])
        node.replace_input_with(1, add_constant(graph, f"{node.name}/weights", weights))


def _input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    if value is None:
        raise GraphError(f"the node {node.name} has no input")
    return value


def _weights(node: ir.Node) -> Array:
    tensor = _constant(node.inputs[1])
    return tensor.numpy() if tensor is not None else np.zeros((0, 0))


def _constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    tensor = None if value is None else value.const_value
    return tensor if tensor is not None and len(tensor.shape) == 2 else None
