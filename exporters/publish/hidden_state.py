"""Find the token features that a text graph pools."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import onnx_ir as ir

from exporters.errors import PublishError
from exporters.publish.graph import list_values, save_graph
from exporters.publish.proof import run_graph
from runtime.array_types import Array

_BATCH, _SEQUENCE = 2, 5
_CANDIDATES = 24  # a pooling and the layers after it have fewer tensors that everything goes through


@dataclass(frozen=True, kw_only=True)
class HiddenState:
    """A tensor of token features, and the number of features."""

    tensor: ir.Value
    width: int


def find_hidden_state(model: ir.Model) -> HiddenState:
    """Return the last tensor of shape ``[batch, sequence, features]`` before the pooling masks and reduces it.

    Raises:
        PublishError: There is none: the model embeds a text in another way.
    """
    from_ids, from_mask = (
        _reached(model.graph, names) for names in (["input_ids"], ["attention_mask", "pooling_mask"])
    )
    candidates = list(islice(_bottlenecks(model.graph, from_ids), _CANDIDATES))
    for value, array in zip(candidates, _evaluate(model, candidates), strict=True):
        node = value.producer()
        masked = node and node.op_type in ("Mul", "Where") and ({*node.inputs} - from_ids) & from_mask
        if array.ndim == 3 and array.shape[:2] == (_BATCH, _SEQUENCE) and not masked:
            return HiddenState(tensor=value, width=array.shape[2])
    raise PublishError("the graph has no token features before its pooling; use the layout single")


def _bottlenecks(graph: ir.Graph, reached: Collection[ir.Value | None]) -> Iterator[ir.Value]:
    """Yield the tensors that every path from ``reached`` to the output goes through, from the last to the first."""
    open_ends: set[ir.Value | None] = {graph.outputs[0]}
    yield graph.outputs[0]
    for node in reversed(graph):
        if not open_ends.isdisjoint(node.outputs):
            open_ends = open_ends.difference(node.outputs).union(value for value in node.inputs if value in reached)
            if len(open_ends) == 1:
                yield from filter(None, open_ends)


def _reached(graph: ir.Graph, starts: Collection[str]) -> set[ir.Value | None]:
    """Return the tensors whose values depend on those of the inputs ``starts``, and not only on their shapes."""
    reached: set[ir.Value | None] = {value for value in graph.inputs if value.name in starts}
    for node in graph:
        if node.op_type not in ("Shape", "Size") and not reached.isdisjoint(node.inputs):
            reached.update(node.outputs)
    return reached


def _evaluate(model: ir.Model, values: Sequence[ir.Value]) -> list[Array]:
    probe = model.clone()
    named = {value.name: value for value in list_values(probe.graph)}
    probe.graph.outputs[:] = [named[value.name] for value in values]
    feeds = {str(each.name): np.ones((_BATCH, _SEQUENCE), np.int64) for each in probe.graph.inputs}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probe.onnx")
        save_graph(probe, path)
        return run_graph(path, feeds, optimization="ORT_DISABLE_ALL")
