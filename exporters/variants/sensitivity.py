"""Which nodes of a graph 8 bits harm most, measured; and how few of them have to stay in float.

One graph is built in which every node can be switched between float and 8 bits while it runs, so that a measurement
costs one run over the samples, not a quantization and a session of its own. It rounds as the real graph does, in float.
"""

from __future__ import annotations

import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from exporters.calibration.activations import Array, Samples, add_constant, check_samples, open_session, run_all, save
from exporters.passes.int8 import StaticQuantizer

_GROUPS = 64  # measured first, at most; then the worst are taken apart
_BUDGET_S = 300.0
_RANKED = 4  # batches that the ranking is measured on, at most; what is decided is measured on all


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What 8 bits cost in one node.

    Attributes:
        node: Its name.
        cost: The largest cosine distance to the float vectors when it alone is in 8 bits. For a node that there was no
            time to measure alone: that of the group it was measured in, divided by the nodes of the group.
        alone: Whether it was measured alone.
    """

    node: str
    cost: float
    alone: bool


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Which nodes should stay in float.

    Attributes:
        float_nodes: Their names, in the order in which they were chosen.
        min_cosine: The smallest cosine between the vectors of the real graph, quantized but for them, and of float.
        costs: Of every node, the worst first; empty where none has to stay in float, which is tried first.
    """

    float_nodes: tuple[str, ...]
    min_cosine: float
    costs: tuple[Cost, ...]


def min_cosine(vectors: Array, reference: Array) -> float:
    """Returns the smallest cosine between rows of two arrays, ``[rows, dim]``."""
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    return float(((vectors * reference).sum(axis=1, dtype=np.float64) / np.maximum(lengths, 1e-30)).min())


def find_sensitive(
    quantizer: StaticQuantizer,
    samples: Samples,
    *,
    floor: float,
    most: int = 16,
    costs: Sequence[Cost] = (),
    budget_s: float = _BUDGET_S,
    threads: int | None = None,
) -> Sensitivity:
    """Measures what 8 bits cost in each node, then leaves the worst in float until the cosine reaches ``floor``.

    Args:
        quantizer: The graph, calibrated on other samples than these.
        samples: Batches of the graph's inputs, held out.
        floor: The smallest cosine to the float vectors that will do.
        most: How many nodes may stay in float. If they are not enough, the result's ``min_cosine`` is below the floor.
        costs: Of every node, if an earlier search of the same graph and samples has measured them; the worst first.
        budget_s: For ranking the nodes, in seconds. They are measured in groups of neighbours first, as many as half of
            it allows; then those of the worst groups alone while there is time.
        threads: How many may be used; by default as many as affinity mask and container quota allow.

    Raises:
        QuantizationError: There are no samples, or onnxruntime cannot do it.
    """
    check_samples(samples)
    with tempfile.TemporaryDirectory() as folder:
        probe = _Probe(quantizer, samples, Path(folder), threads)
        chosen: list[str] = []
        reached = probe.measure_real(chosen)
        if reached >= floor:
            return Sensitivity(float_nodes=(), min_cosine=reached, costs=())
        costs = costs or _rank(quantizer.nodes, probe.cost, budget_s)
        worst = [each.node for each in costs[:most]]  # the more in float, the nearer: bisected, then tried for real
        counts = range(1, len(worst) + 1)
        likely = bisect_left(counts, True, key=lambda count: probe.measure_without(worst[:count]) >= floor)
        for count in counts[min(likely, len(worst) - 1) :]:
            chosen = worst[:count]
            reached = probe.measure_real(chosen)
            if reached >= floor:
                break
    return Sensitivity(float_nodes=tuple(chosen), min_cosine=reached, costs=tuple(costs))


class _Probe:
    """The graph with a switch for each node, and the held-out samples."""

    def __init__(self, quantizer: StaticQuantizer, samples: Samples, folder: Path, threads: int | None) -> None:
        self._quantizer, self._samples, self._folder, self._threads = quantizer, samples, folder, threads
        self._few = list(samples[:: ceil(len(samples) / _RANKED)])
        plain = self._open(quantizer.model)
        self._few_reference, self._reference = run_all(plain, self._few, {}), run_all(plain, samples, {})

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return self._open(add_switches(self._quantizer))

    def cost(self, nodes: Collection[str]) -> float:
        return 1 - min_cosine(self._run(nodes, self._few), self._few_reference)

    def measure_without(self, float_nodes: Collection[str]) -> float:
        """Returns the smallest cosine with ``float_nodes`` in float and all others in 8 bits."""
        return min_cosine(self._run(set(self._quantizer.nodes) - set(float_nodes), self._samples), self._reference)

    def measure_real(self, float_nodes: Collection[str]) -> float:
        """Returns the smallest cosine of the graph that would be written, run by its 8 bit kernels."""
        session = self._open(self._quantizer.quantize(float_nodes))
        return min_cosine(run_all(session, self._samples, {}), self._reference)

    def _open(self, model: ir.Model) -> onnxruntime.InferenceSession:
        return open_session(save(model, self._folder / "probe.onnx"), self._threads)

    def _run(self, int8: Collection[str], samples: Samples) -> Array:
        return run_all(self._session, samples, {_switch(n): np.array(n in int8) for n in self._quantizer.nodes})


def add_switches(quantizer: StaticQuantizer) -> ir.Model:
    """Returns the quantized graph with a boolean input for each node: whether it takes its inputs in 8 bits."""
    model, original = quantizer.quantize(keep_activations=True), quantizer.model
    names = set(quantizer.nodes)
    weights = {node.name: node.inputs for node in original.graph}
    for node in [node for node in model.graph if node.name in names]:
        switch = ir.Value(name=_switch(str(node.name)), shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
        model.graph.inputs.append(switch)
        for index, value in enumerate(node.inputs):
            restored = None if value is None else value.producer()
            if restored is not None and restored.op_type == "DequantizeLinear":
                plain = _plain(model.graph, restored, weights[node.name][index])
                choice = ir.node("Where", [switch, value, plain])
                model.graph.insert_before(node, choice)
                node.replace_input_with(index, choice.outputs[0])
    return model


def _plain(graph: ir.Graph, restored: ir.Node, original: ir.Value | None) -> ir.Value | None:
    """Returns the tensor that was rounded: what went into the pair, or the constant of the original graph."""
    rounded = None if restored.inputs[0] is None else restored.inputs[0].producer()
    if rounded is not None:
        return rounded.inputs[0]
    if original is None:
        return None
    name = f"{original.name}/float"  # a bias is restored under its own name
    if name not in graph.initializers:
        add_constant(graph, name, original.const_value.numpy())  # type: ignore[union-attr]
    return graph.initializers[name]


def _switch(node: str) -> str:
    return f"{node}/int8"


def _rank(nodes: Sequence[str], cost: Callable[[Collection[str]], float], budget_s: float) -> list[Cost]:
    started = time.monotonic()
    cost(nodes[:1])
    affordable = int(budget_s / 2 / (time.monotonic() - started))
    found = {each.node: each for each in _measure_groups(nodes, cost, max(2, min(_GROUPS, affordable)))}
    deadline = started + budget_s
    for each in sorted(found.values(), key=lambda each: -each.cost):
        if not each.alone and time.monotonic() < deadline:
            found[each.node] = Cost(node=each.node, cost=cost([each.node]), alone=True)
    return sorted(found.values(), key=lambda each: -each.cost)


def _measure_groups(nodes: Sequence[str], cost: Callable[[Collection[str]], float], groups: int) -> Iterator[Cost]:
    size = max(1, ceil(len(nodes) / groups))
    for start in range(0, len(nodes), size):
        group = nodes[start : start + size]
        share = cost(group) / len(group)
        yield from (Cost(node=node, cost=share, alone=len(group) == 1) for node in group)
