"""Find the token features that a text graph pools."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from exporters.errors import PublishError
from exporters.publish.graph import save_graph
from exporters.publish.proof import run_graph
from runtime.array_types import Array

_BATCH, _SEQUENCE = 2, 5
_CANDIDATES = 24  # a pooling and the layers after it have fewer tensors that everything goes through


@dataclass(frozen=True, kw_only=True)
class HiddenState:
    """A tensor of token features: its name, its ONNX element type, and the number of features."""

    tensor: str
    dtype: int
    width: int


def find_hidden_state(model: onnx.ModelProto) -> HiddenState:
    """Return the last tensor of shape ``[batch, sequence, features]`` before the pooling masks and reduces it.

    Raises:
        PublishError: There is none: the model embeds a text in another way.
    """
    graph = model.graph
    candidates = list(islice(_bottlenecks(graph, graph.output[0].name), _CANDIDATES))
    producers = {name: node for node in graph.node for name in node.output}
    from_ids, from_mask = _reached(graph, ["input_ids"]), _reached(graph, ["attention_mask", "pooling_mask"])
    for name, array in zip(candidates, _evaluate(model, candidates), strict=True):
        inputs = set(producers[name].input) if name in producers else set()
        masked = producers[name].op_type in ("Mul", "Where") and (inputs - from_ids) & from_mask if inputs else False
        if array.ndim == 3 and array.shape[:2] == (_BATCH, _SEQUENCE) and not masked:
            return HiddenState(tensor=name, dtype=helper.np_dtype_to_tensor_dtype(array.dtype), width=array.shape[2])
    raise PublishError("the graph has no token features before its pooling; use the layout single")


def _bottlenecks(graph: onnx.GraphProto, output: str) -> Iterator[str]:
    """Yield the tensors that every path from ``input_ids`` to ``output`` goes through, from the last to the first."""
    position = {name: index for index, node in enumerate(graph.node) for name in node.output}
    reached, open_ends = _reached(graph, ["input_ids"]), {output}
    while True:
        if len(open_ends) == 1:
            yield next(iter(open_ends))
        latest = max(open_ends, key=lambda name: position.get(name, -1), default="")
        if latest not in position:
            return
        node = graph.node[position[latest]]
        open_ends = (open_ends - set(node.output)) | (reached & set(node.input))


def _reached(graph: onnx.GraphProto, starts: Iterable[str]) -> set[str]:
    """Return the tensors whose values depend on those of ``starts``, and not only on their shapes."""
    reached = set(starts)
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and not reached.isdisjoint(node.input):
            reached.update(node.output)
    return reached


def _evaluate(model: onnx.ModelProto, names: list[str]) -> list[Array]:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    feeds = {each.name: np.ones((_BATCH, _SEQUENCE), np.int64) for each in model.graph.input}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probe.onnx")
        save_graph(probe, path)
        return run_graph(path, feeds, optimization="ORT_DISABLE_ALL")
