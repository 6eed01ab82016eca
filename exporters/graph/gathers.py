"""Replace gathers by indices that a CUDA graph cannot record.

CUDA's ``GatherND`` copies the shape from a temporary array of the host, which is gone when the graph is replayed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from exporters.graph.initializers import add_initializer


def replace_gathers(model: ir.Model) -> None:
    """Replace the ``GatherND`` nodes of transformers' masks and of a pooling of one token.

    Before: ``GatherND(mask, indices)`` with ``indices[b, 0, 0, s] == (b, s)``. After: ``Unsqueeze(mask, [1, 2])``.

    Before: ``GatherND(tokens, indices)`` with ``indices[b] == (b, positions[b])``. After: ``GatherElements`` along the
    sequence, and a ``Squeeze``.
    """
    for node in [node for node in model.graph if node.op_type == "GatherND"]:
        replace = _find_replacement(node)
        if replace is not None:
            nodes = replace(model.graph, node)
            ir.convenience.replace_nodes_and_values(
                model.graph, node, [node], nodes, list(node.outputs), list(nodes[-1].outputs)
            )
    passes.RemoveUnusedNodesPass()(model)


def _find_replacement(node: ir.Node) -> Callable[[ir.Graph, ir.Node], list[ir.Node]] | None:
    data, concat = node.inputs[0], _producer(node.inputs[1], "Concat")
    shape = list(data.shape) if data and data.shape else []
    batch_dims: int = node.attributes.get_int("batch_dims", 0)
    if concat is None or len(concat.inputs) != 2 or batch_dims:
        return None
    first, second = concat.inputs
    if len(shape) == 2 and (_grid(first), _grid(second)) == ([shape[0], 1, 1, 1], [1, 1, 1, shape[1]]):
        return _broadcast
    rows = _producer(first, "Unsqueeze")
    if len(shape) == 3 and isinstance(shape[2], int) and rows and _is_range(rows.inputs[0], [shape[0]]):
        return _take_token if _producer(second, "Unsqueeze") else None
    return None


def _broadcast(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    return [ir.node("Unsqueeze", [node.inputs[0], _constant(graph, node, "axes", [1, 2])])]


def _take_token(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    data, concat = node.inputs[0], _producer(node.inputs[1], "Concat")
    width = data.shape[2] if data and data.shape else None
    if concat is None or not isinstance(width, int):
        raise TypeError("the node has no inputs")  # _find_replacement has checked them
    positions = ir.node("Unsqueeze", [concat.inputs[1], _constant(graph, node, "axes", [2])])
    index = ir.node("Expand", [positions.outputs[0], _constant(graph, node, "shape", [1, 1, width])])
    taken = ir.node("GatherElements", [data, index.outputs[0]], {"axis": 1})
    return [positions, index, taken, ir.node("Squeeze", [taken.outputs[0], _constant(graph, node, "row", [1])])]


def _constant(graph: ir.Graph, node: ir.Node, name: str, numbers: list[int]) -> ir.Value:
    return add_initializer(graph, f"{node.outputs[0].name}/{name}", np.array(numbers))


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value else None
    return node if node and node.op_type == op_type else None


def _grid(value: ir.Value | None) -> list[int | ir.SymbolicDim] | None:
    """Return the shape of the numbers from 0 that ``value`` repeats along other axes; ``None`` if it is another."""
    unsqueezed = _producer(value, "Unsqueeze")
    expand = _producer(unsqueezed.inputs[0], "Expand") if unsqueezed else None
    grid = expand.inputs[0] if expand else None
    value = grid
    while node := _producer(value, "Unsqueeze"):
        value = node.inputs[0]
    return list(grid.shape) if grid and grid.shape and _is_range(value) else None


def _is_range(value: ir.Value | None, shape: list[int | ir.SymbolicDim] | None = None) -> bool:
    node = _producer(value, "Range")
    if value is None or node is None or (shape is not None and list(value.shape or ()) != shape):
        return False
    start, _, step = (ir.convenience.get_const_tensor(each) if each else None for each in node.inputs)
    return start is not None and step is not None and (start.numpy().item(), step.numpy().item()) == (0, 1)
