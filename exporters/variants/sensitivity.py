"""Measure the cost of int8 in each node of a graph, and choose the nodes that stay in float32.

One graph has a switch for every node, between float32 and int8. A measurement is then one run over the held-out
batches, without a new quantization and session. The switched graph rounds as the int8 graph does, but computes in
float32.
"""

from __future__ import annotations

import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from exporters.calibration.activations import Batches, check_batches, count_rows, open_session, run_batches
from exporters.graph.initializers import add_initializer, initializer_array
from exporters.graph.onnx_file import write_temporary_graph
from exporters.passes.int8 import StaticQuantizer
from exporters.progress import expect
from runtime.array_types import Array
from runtime.artifact.parity import row_cosines

_RANKING_BATCHES = 4  # the ranking uses these; the decision uses all batches
# Time for the ranking. Half of it is for groups of neighbouring nodes; the rest is for single nodes of the costliest
# groups.
_RANKING_S = 300.0
_MAX_GROUPS = 64
_EXPECTED_CHECKS = 6  # of all batches, for the progress bar: the bisection of 16 nodes, and the int8 graph itself


@dataclass(frozen=True, kw_only=True)
class NodeCost:
    """Cost of int8 in one node.

    Attributes:
        node: Name of the node.
        cost: Largest cosine distance to the float32 vectors if only this node is in int8. If there was no time to
            measure the node alone: the cost of its group, divided by the number of nodes in the group.
        alone: Whether the node was measured alone.
    """

    node: str
    cost: float
    alone: bool


@dataclass(frozen=True, kw_only=True)
class SensitivityAnalysis:
    """Result of a search for the nodes that should stay in float32.

    Attributes:
        float_nodes: Names of these nodes, in the order of their choice.
        min_cosine: Smallest cosine similarity of the int8 graph with these nodes in float32 to the float32 graph.
        costs: Cost of every node, the highest first; empty if no node has to stay in float32.
    """

    float_nodes: tuple[str, ...]
    min_cosine: float
    costs: tuple[NodeCost, ...]


def find_sensitive_nodes(
    quantizer: StaticQuantizer, batches: Batches, *, floor: float, costs: Sequence[NodeCost] = ()
) -> SensitivityAnalysis:
    """Measure the cost of int8 in each node, and keep the costliest nodes in float32 until the cosine reaches a floor.

    At most :func:`most_float_nodes` stay in float32. If they are not enough, the result's ``min_cosine`` is below the
    floor.

    Args:
        quantizer: The graph, calibrated on other batches.
        batches: Held-out batches of the graph's inputs.
        floor: Smallest cosine similarity to the float32 vectors that is accepted.
        costs: Cost of every node from an earlier search on the same graph and batches, the highest first.

    Raises:
        QuantizationError: There are no batches, or onnxruntime fails.
    """
    check_batches(batches)
    with tempfile.TemporaryDirectory() as folder:
        graph = _SwitchableGraph(quantizer, batches, Path(folder))
        cosine = graph.int8_cosine(())
        if cosine >= floor:
            return SensitivityAnalysis(float_nodes=(), min_cosine=cosine, costs=())
        expect(min(len(quantizer.nodes), _MAX_GROUPS) * graph.ranking_rows + _EXPECTED_CHECKS * count_rows(batches))
        graph.open_switches()
        costs = costs or rank_nodes(quantizer.nodes, graph.cost)
        ranked = [each.node for each in costs[: most_float_nodes(len(quantizer.nodes))]]
        chosen: list[str] = []
        # The cosine grows with the number of float32 nodes: bisect on the switched graph, then confirm on int8 graphs.
        counts = range(1, len(ranked) + 1)
        first = bisect_left(counts, True, key=lambda count: graph.switched_cosine(ranked[:count]) >= floor)
        for count in counts[min(first, len(ranked) - 1) :]:
            chosen = ranked[:count]
            cosine = graph.int8_cosine(chosen)
            if cosine >= floor:
                break
    return SensitivityAnalysis(float_nodes=tuple(chosen), min_cosine=cosine, costs=tuple(costs))


def most_float_nodes(nodes: int) -> int:
    """Return how many of the ``nodes`` of a graph may stay in float32: 16, or a fifth of a large graph."""
    return max(16, nodes // 5)


class _SwitchableGraph:
    """The graph with a switch for each node, and the held-out batches."""

    def __init__(self, quantizer: StaticQuantizer, batches: Batches, folder: Path) -> None:
        self._quantizer, self._batches, self._folder = quantizer, batches, folder
        session = self._open(quantizer.model)
        references = [run_batches(session, [batch], {}) for batch in batches]
        self._reference = np.concatenate(references)
        step = ceil(len(batches) / _RANKING_BATCHES)
        self._ranking_batches, self._ranking_reference = batches[::step], np.concatenate(references[::step])
        self.ranking_rows = count_rows(self._ranking_batches)

    def open_switches(self) -> None:
        """Quantize, write and open the graph with switches. This takes as long as many runs of it."""
        self._session = self._open(add_switches(self._quantizer))

    def cost(self, nodes: Collection[str]) -> float:
        """Return the largest cosine distance with only ``nodes`` in int8."""
        return 1 - _min_cosine(self._run(nodes, self._ranking_batches), self._ranking_reference)

    def switched_cosine(self, float_nodes: Collection[str]) -> float:
        """Return the smallest cosine of the switched graph with ``float_nodes`` in float32 and the others in int8."""
        vectors = self._run(set(self._quantizer.nodes) - set(float_nodes), self._batches)
        return _min_cosine(vectors, self._reference)

    def int8_cosine(self, float_nodes: Collection[str]) -> float:
        """Return the smallest cosine of the int8 graph that would be written, run by int8 kernels."""
        session = self._open(self._quantizer.quantize(float_nodes))
        return _min_cosine(run_batches(session, self._batches, {}), self._reference)

    def _open(self, model: ir.Model) -> onnxruntime.InferenceSession:
        return open_session(write_temporary_graph(self._folder / "graph.onnx", model))

    def _run(self, int8: Collection[str], batches: Batches) -> Array:
        switches = {_switch(node): np.array(node in int8) for node in self._quantizer.nodes}
        return run_batches(self._session, batches, switches)


def add_switches(quantizer: StaticQuantizer) -> ir.Model:
    """Return the quantized graph with one boolean input per node: whether its inputs are in int8."""
    model, original = quantizer.quantize(keep_activations=True), quantizer.model
    names = set(quantizer.nodes)
    original_inputs = {node.name: node.inputs for node in original.graph}
    for node in [node for node in model.graph if node.name in names]:
        switch = ir.Value(name=_switch(str(node.name)), shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
        model.graph.inputs.append(switch)
        for index, value in enumerate(node.inputs):
            dequantizer = None if value is None else value.producer()
            if dequantizer is not None and dequantizer.op_type == "DequantizeLinear":
                exact = _float_value(model.graph, dequantizer, original_inputs[node.name][index])
                choice = ir.node("Where", [switch, value, exact])
                model.graph.insert_before(node, choice)
                node.replace_input_with(index, choice.outputs[0])
    return model


def rank_nodes(nodes: Sequence[str], cost: Callable[[Collection[str]], float]) -> list[NodeCost]:
    """Return the cost of every node, the highest first; see :func:`find_sensitive_nodes`.

    ``nodes`` has the order of the graph. ``cost`` measures int8 in some nodes together.
    """
    started = time.perf_counter()
    cost(nodes[:1])
    affordable = int(_RANKING_S / 2 / (time.perf_counter() - started))
    found = {each.node: each for each in _measure_groups(nodes, cost, max(2, min(_MAX_GROUPS, affordable)))}
    for each in sorted(found.values(), key=lambda each: -each.cost):
        if not each.alone and time.perf_counter() - started < _RANKING_S:
            found[each.node] = NodeCost(node=each.node, cost=cost([each.node]), alone=True)
    return sorted(found.values(), key=lambda each: -each.cost)


def _measure_groups(nodes: Sequence[str], cost: Callable[[Collection[str]], float], groups: int) -> Iterator[NodeCost]:
    size = max(1, ceil(len(nodes) / groups))
    for start in range(0, len(nodes), size):
        group = nodes[start : start + size]
        share = cost(group) / len(group)
        yield from (NodeCost(node=node, cost=share, alone=len(group) == 1) for node in group)


def _min_cosine(vectors: Array, reference: Array) -> float:
    return float(np.nan_to_num(row_cosines(vectors, reference)).min())  # a vector of zeros counts as 0


def _float_value(graph: ir.Graph, dequantizer: ir.Node, original: ir.Value | None) -> ir.Value | None:
    """Return the float32 tensor before rounding: the input of QuantizeLinear, or the original graph's constant."""
    quantized = None if dequantizer.inputs[0] is None else dequantizer.inputs[0].producer()
    if quantized is not None or original is None:
        return quantized.inputs[0] if quantized else None
    name = f"{original.name}/float"  # a dequantized bias has the name of the original
    if name not in graph.initializers:
        add_initializer(graph, name, initializer_array(original))
    return graph.initializers[name]


def _switch(node: str) -> str:
    return f"{node}/int8"
