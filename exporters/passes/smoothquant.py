"""Evens out the channels that go into a matrix product, so that one int8 scale serves them all.

A transformer's activations have a few channels of ten times the others' size, for which the others lose their bits.
Each channel is divided by a factor and the weights' row multiplied by it.
Source: SmoothQuant, equation 4 (https://arxiv.org/abs/2211.10438).

Which does not do for the very few that are a hundred times as large, for some words alone. They are multiplied in
float, beside the rest. Source: LLM.int8(), section 3.2 (https://arxiv.org/abs/2208.07339).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import replace_nodes_and_values

from exporters.calibration.activations import Array, add_constant

ALPHA = 0.7  # on MiniLM 0.5 to 0.7 lie within noise of one another, and with less more channels are outliers
_OUTLYING = 3.0  # times the median channel's peak, evened out: five channels of MiniLM, in four feed-forwards
_MOST_OUTLIERS = 16  # of one tensor; more would cost what 8 bits save
_SMALLEST = 1e-5  # of a channel that is never used


def input_channels(nodes: Iterable[ir.Node]) -> dict[str, int]:
    """Returns how many channels each tensor has that can be evened out before ``nodes``: what MatMuls take."""
    return {str(value.name): len(_weights(group[0])) for value, group in _by_input(nodes).items()}


def smooth_channels(
    model: ir.Model, nodes: Iterable[ir.Node], peaks: Mapping[str, Array], alpha: float = ALPHA
) -> None:
    """Puts a multiplication before the products of each tensor in ``peaks``, and a small product beside them.

    Before: products take the tensor itself. After: they take it with its channels evened out and its outliers set to 0,
    and their weights make up for it; outliers are multiplied and added by nodes of their own. The graph's results are
    the same but for rounding. Everybody else still takes the tensor itself.

    Args:
        model: The graph, which is changed.
        nodes: Its nodes whose products are to be computed in 8 bits. They are replaced, and keep their names.
        peaks: The largest absolute value of each channel, ``[channels]`` float32, by tensor.
        alpha: How much of the unevenness goes into the weights, 0 to 1.
    """
    for value, group in _by_input(nodes).items():
        _smooth(model.graph, value, group, peaks[str(value.name)], alpha)


def _by_input(nodes: Iterable[ir.Node]) -> dict[ir.Value, list[ir.Node]]:
    """Returns the MatMuls by constant matrices, by what they take, where that is computed."""
    groups: dict[ir.Value, list[ir.Node]] = defaultdict(list)
    for node in nodes:
        value = node.inputs[0]
        if node.op_type == "MatMul" and len(_weights(node)) and value is not None and value.producer() is not None:
            groups[value].append(node)
    return groups


def _factors(nodes: Sequence[ir.Node], peak: Array, alpha: float) -> Array:
    rows = np.max([np.abs(_weights(node)).max(axis=1) for node in nodes], axis=0)
    logarithms = alpha * np.log(np.maximum(peak, _SMALLEST)) - (1 - alpha) * np.log(np.maximum(rows, _SMALLEST))
    factors: Array = np.exp(logarithms - logarithms.mean()).astype(np.float32)
    return factors


def _smooth(graph: ir.Graph, value: ir.Value, nodes: Sequence[ir.Node], peak: Array, alpha: float) -> None:
    factors = _factors(nodes, peak, alpha)
    outliers = _find_outliers(peak / factors)
    inverse = 1 / factors
    inverse[outliers] = 0
    even = ir.node("Mul", [value, add_constant(graph, f"{value.name}/smoothing", inverse)], name=f"{value.name}/smooth")
    even.outputs[0].name = f"{value.name}/even"
    even.outputs[0].shape, even.outputs[0].type = value.shape, value.type
    graph.insert_before(nodes[0], even)
    for node in nodes:
        original = _weights(node)
        weights = (original * factors[:, None]).astype(np.float32)
        weights[outliers] = 0
        node.replace_input_with(0, even.outputs[0])
        node.replace_input_with(1, add_constant(graph, f"{node.name}/weights", weights))
        if len(outliers):
            _add_outliers(graph, node, value, outliers, original[outliers])


def _find_outliers(peaks: Array) -> Array:
    """Returns the indices of channels whose peaks stand out, in order."""
    largest = np.argsort(-peaks, kind="stable")[:_MOST_OUTLIERS]
    return np.sort(largest[peaks[largest] > _OUTLYING * np.median(peaks)])


def _add_outliers(graph: ir.Graph, node: ir.Node, value: ir.Value, outliers: Array, weights: Array) -> None:
    """Adds the product of ``value``'s outlying channels to that of ``node``, which takes the others."""
    name = f"{node.name}/outliers"
    indices, rows = add_constant(graph, name, outliers), add_constant(graph, f"{name}/weights", weights)
    few = ir.node("Gather", [value, indices], {"axis": -1}, name=f"{name}/gather")
    product = ir.node("MatMul", [few.outputs[0], rows], name=f"{name}/matmul")
    rest = ir.node("MatMul", node.inputs, name=node.name)
    both = ir.node("Add", [rest.outputs[0], product.outputs[0]], name=f"{name}/add")
    for each in (few, product, rest):
        each.outputs[0].name, each.outputs[0].type = f"{each.name}/output", value.type
    rest.outputs[0].shape = product.outputs[0].shape = node.outputs[0].shape
    replace_nodes_and_values(graph, node, [node], [rest, few, product, both], node.outputs, both.outputs)


def _weights(node: ir.Node) -> Array:
    """Returns the matrix by which ``node`` multiplies, ``[0, 0]`` if it is not constant."""
    value = node.inputs[1]
    tensor = None if value is None else value.const_value
    return tensor.numpy() if tensor is not None and len(tensor.shape) == 2 else np.zeros((0, 0))
