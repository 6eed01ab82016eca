"""Smooth the input channels of matrix products, so that one int8 scale fits all channels of a tensor.

A few channels of a transformer's activations are ten times as large as the others, which then lose their bits.
SmoothQuant divides each channel by a factor and multiplies the matching row of the weights by it.
Source: SmoothQuant, equation 4 (https://arxiv.org/abs/2211.10438).

A very few channels are a hundred times as large, for some words only. Smoothing does not help there. Nodes of their own
multiply these outlier channels in float32. Source: LLM.int8(), section 3.2 (https://arxiv.org/abs/2208.07339).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import replace_nodes_and_values

from exporters.graph.initializers import add_initializer
from runtime.array_types import Array

_ALPHA = 0.7  # migration strength; on MiniLM 0.5 to 0.7 differ by noise only, and less gives more outlier channels
_OUTLIER_RATIO = 3.0  # to the median peak of the smoothed channels; MiniLM: five channels in four feed-forward layers
_MAX_OUTLIERS = 16  # per tensor; more would cost the time that int8 saves
_MIN_PEAK = 1e-5  # keeps the logarithm of an unused channel finite


def input_channels(nodes: Iterable[ir.Node]) -> dict[str, int]:
    """Return the number of channels of each tensor that can be smoothed before ``nodes``: the inputs of MatMuls."""
    return {str(value.name): len(_weights(group[0])) for value, group in _by_input(nodes).items()}


def smooth_channels(model: ir.Model, nodes: Iterable[ir.Node], peaks: Mapping[str, Array]) -> None:
    """Smooth the tensors in ``peaks`` for the matrix products that take them, and split off outlier channels.

    Before: the products take the tensor. After: they take the smoothed tensor with its outlier channels set to 0, and
    their weights compensate. Nodes of their own multiply and add the outlier channels. The graph's results are the same
    but for rounding. All other nodes still take the tensor itself.

    Args:
        model: The graph, which is changed.
        nodes: Nodes whose products int8 will compute. They are replaced and keep their names.
        peaks: Largest absolute value of each channel, ``[channels]`` float32, by tensor.
    """
    for value, group in _by_input(nodes).items():
        _smooth(model.graph, value, group, peaks[str(value.name)])


def _by_input(nodes: Iterable[ir.Node]) -> dict[ir.Value, list[ir.Node]]:
    """Return the MatMuls by constant matrices, grouped by their input; inputs of the graph are left out."""
    groups: dict[ir.Value, list[ir.Node]] = defaultdict(list)
    for node in nodes:
        value = node.inputs[0]
        if node.op_type == "MatMul" and len(_weights(node)) and value is not None and value.producer() is not None:
            groups[value].append(node)
    return groups


def _factors(nodes: Sequence[ir.Node], peak: Array) -> Array:
    rows = np.max([np.abs(_weights(node)).max(axis=1) for node in nodes], axis=0)
    logarithms = _ALPHA * np.log(np.maximum(peak, _MIN_PEAK)) - (1 - _ALPHA) * np.log(np.maximum(rows, _MIN_PEAK))
    factors: Array = np.exp(logarithms - logarithms.mean()).astype(np.float32)
    return factors


def _smooth(graph: ir.Graph, value: ir.Value, nodes: Sequence[ir.Node], peak: Array) -> None:
    factors = _factors(nodes, peak)
    outliers = _find_outliers(peak / factors)
    inverse = 1 / factors
    inverse[outliers] = 0
    scale = add_initializer(graph, f"{value.name}/smoothing", inverse)
    smoothed = ir.node("Mul", [value, scale], name=f"{value.name}/smooth")
    smoothed.outputs[0].name = f"{value.name}/even"
    smoothed.outputs[0].shape, smoothed.outputs[0].type = value.shape, value.type
    graph.insert_before(nodes[0], smoothed)
    for node in nodes:
        original = _weights(node)
        weights = (original * factors[:, None]).astype(np.float32)
        weights[outliers] = 0
        node.replace_input_with(0, smoothed.outputs[0])
        node.replace_input_with(1, add_initializer(graph, f"{node.name}/weights", weights))
        if len(outliers):
            _add_outliers(graph, node, value, outliers, original[outliers])


def _find_outliers(peaks: Array) -> Array:
    """Return the indices of channels with outlier peaks, in ascending order."""
    largest = np.argsort(-peaks, kind="stable")[:_MAX_OUTLIERS]
    return np.sort(largest[peaks[largest] > _OUTLIER_RATIO * np.median(peaks)])


def _add_outliers(graph: ir.Graph, node: ir.Node, value: ir.Value, outliers: Array, weights: Array) -> None:
    """Add the product of ``value``'s outlier channels to the product of ``node``, which takes the other channels."""
    name = f"{node.name}/outliers"
    indices, rows = add_initializer(graph, name, outliers), add_initializer(graph, f"{name}/weights", weights)
    few = ir.node("Gather", [value, indices], {"axis": -1}, name=f"{name}/gather")
    product = ir.node("MatMul", [few.outputs[0], rows], name=f"{name}/matmul")
    rest = ir.node("MatMul", node.inputs, name=node.name)
    both = ir.node("Add", [rest.outputs[0], product.outputs[0]], name=f"{name}/add")
    for each in (few, product, rest):
        each.outputs[0].name, each.outputs[0].type = f"{each.name}/output", value.type
    rest.outputs[0].shape = product.outputs[0].shape = node.outputs[0].shape
    replace_nodes_and_values(graph, node, [node], [rest, few, product, both], node.outputs, both.outputs)


def _weights(node: ir.Node) -> Array:
    """Return the weight matrix of ``node``; an array of shape ``[0, 0]`` if it is not constant."""
    value = node.inputs[1]
    tensor = None if value is None else value.const_value
    return tensor.numpy() if tensor is not None and len(tensor.shape) == 2 else np.zeros((0, 0))
