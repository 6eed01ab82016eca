"""Round the weights of convolutions and matrix products before onnxruntime's quantizer does it less well.

Matrix products and convolutions of single pixels are rounded by :mod:`exporters.passes.rounding`. The bias of every
convolution is corrected for the mean error that the rounding of its weights makes.
Source of the correction: Data-free quantization, section 4.2 (https://arxiv.org/abs/1906.04721).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx_ir as ir

from exporters.calibration.activations import Batches, channel_means, gram_matrices
from exporters.graph.initializers import add_initializer
from exporters.passes.rounding import round_to_nearest, round_weights
from runtime.array_types import Array


def round_graph(
    model: ir.Model, nodes: Collection[str], ranges: Mapping[str, tuple[float, float]], batches: Batches
) -> ir.Model:
    """Return a copy of ``model`` with weights that onnxruntime's quantizer rounds no further, and corrected biases.

    Args:
        model: The float32 graph.
        nodes: Names of the nodes that int8 will compute.
        ranges: Range of the activations, by tensor.
        batches: Batches of the graph's inputs, not empty.
    """
    rounded = model.clone()
    linear = [node for node in rounded.graph if node.name in nodes and node.op_type in ("MatMul", "Conv")]
    linear = [node for node in linear if _constant(node, 1).size]
    biased = [node for node in linear if node.op_type == "Conv" and _constant(node, 2).size]
    means = channel_means(model, _input_sizes(biased), batches)
    exact = {node: _constant(node, 1) for node in biased}
    matrices = [node for node in linear if node.op_type == "MatMul" or _is_pointwise(node)]
    for name, gram in gram_matrices(model, _input_sizes(matrices), ranges, means, batches):
        for node in matrices:
            if _input(node) == name:
                _replace(rounded.graph, node, 1, _round_by_gram(node, gram))
    for node, weights in exact.items():
        _correct_bias(rounded.graph, node, weights, means[_input(node)])
    return rounded


def restore_exact(model: ir.Model, original: ir.Model, nodes: Collection[str]) -> None:
    """Give the nodes with the names ``nodes`` the weights and biases that they have in ``original``."""
    twins = {node.name: node for node in model.graph if node.name in nodes}
    for node in original.graph:
        if node.name in twins and node.op_type in ("MatMul", "Conv"):
            for index in range(1, len(node.inputs)):
                if (array := _constant(node, index)).size:
                    _replace(model.graph, twins[node.name], index, array, "exact")


def _round_by_gram(node: ir.Node, gram: Array) -> Array:
    weights = _constant(node, 1)
    if node.op_type == "MatMul":
        return round_weights(weights, gram)
    return round_weights(weights.reshape(weights.shape[:2]).T, gram).T.reshape(weights.shape)


def _correct_bias(graph: ir.Graph, node: ir.Node, exact: Array, means: Array) -> None:
    """Add the mean error of the products by rounded weights to the bias. The border of an image is ignored."""
    columns = _constant(node, 1).reshape(len(exact), -1).T
    rounded = round_to_nearest(columns).T.reshape(exact.shape)
    errors = (exact - rounded).reshape(*exact.shape[:2], -1).sum(axis=2)  # [outputs, inputs of a group]
    groups = node.attributes.get_int("group", 1)
    inputs = np.repeat(means.reshape(groups, -1), len(exact) // groups, axis=0)
    _replace(graph, node, 2, (_constant(node, 2) + (errors * inputs).sum(axis=1)).astype(np.float32))


def _is_pointwise(node: ir.Node) -> bool:
    return set(_constant(node, 1).shape[2:]) == {1} and node.attributes.get_int("group", 1) == 1


def _input_sizes(nodes: Iterable[ir.Node]) -> dict[str, int]:
    """Return the number of channels of each tensor that ``nodes`` take."""
    sizes = dict[str, int]()
    for node in nodes:
        shape, groups = _constant(node, 1).shape, node.attributes.get_int("group", 1)
        sizes[_input(node)] = shape[1] * groups if node.op_type == "Conv" else shape[0]
    return sizes


def _input(node: ir.Node) -> str:
    return "" if node.inputs[0] is None else str(node.inputs[0].name)


def _constant(node: ir.Node, index: int) -> Array:
    """Return a constant input of ``node``; an empty array if it is missing or not constant."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return np.zeros(0) if value is None or value.const_value is None else value.const_value.numpy()


def _replace(graph: ir.Graph, node: ir.Node, index: int, array: Array, kind: str = "rounded") -> None:
    node.replace_input_with(index, add_initializer(graph, f"{node.name}/{index}/{kind}", array))
