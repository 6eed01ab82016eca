"""Measure the largest absolute value of each tensor of a graph, and infer the type of each tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper

from exporters.calibration.activations import track_batches
from exporters.errors import GraphError
from exporters.graph.attention_masks import MASK_THRESHOLD, find_masks
from runtime.array_types import Array, Feeds
from runtime.session.options import session_options

_SMALL_BYTES = 1024


class TensorType(NamedTuple):
    """Type of a tensor: whether it is float32, and its number of axes (0 also if onnxruntime does not know it)."""

    is_float: bool
    rank: int


def max_abs_values(graph: Path, batches: Sequence[Feeds]) -> dict[str, float]:
    """Return the largest absolute value of each float32 tensor, from runs of the graph on the CPU without optimization.

    Mask values of attention (see :mod:`exporters.graph.attention_masks`) do not count. The bodies of loops and
    conditions are not measured. Memory holds the tensors of one batch.

    Args:
        graph: The ONNX file. Its weights may be in a second file.
        batches: The graph's inputs, one mapping per run.

    Returns:
        The largest absolute value over all batches, by tensor; NaN if the graph itself gives NaN.

    Raises:
        GraphError: There are no batches, or onnxruntime cannot run the graph on them.
    """
    if not batches:
        raise GraphError("there are no batches to measure the graph's values with; pass at least one")
    names = [name for name, kind in infer_types(graph).items() if kind.is_float]
    session = _open(_instrumented_graph(graph, names), graph)
    largest: Array = np.zeros(len(names), np.float32)
    for batch in track_batches(batches):
        try:
            largest = np.maximum(largest, np.stack(session.run(None, dict(batch))))
        except Exception as exc:  # onnxruntime's errors have no common type
            raise GraphError(f"cannot run {graph.name} on the batches; correct their names and shapes: {exc}") from exc
    return dict(zip(names, largest.tolist(), strict=True))


def infer_types(graph: Path) -> dict[str, TensorType]:
    """Return the type of each node's outputs, by name, without the bodies of loops and conditions.

    onnxruntime infers the types, because it knows its own operators. It does not load the weights.

    Raises:
        GraphError: onnxruntime cannot load the graph.
    """
    outputs = _open(_weightless_graph(graph), graph).get_outputs()
    return {output.name: TensorType(output.type == "tensor(float)", len(output.shape)) for output in outputs}


def _weightless_graph(graph: Path) -> bytes:
    """Return the graph with inputs in place of large weights, and with every tensor as an output."""
    model = onnx.load(graph, load_external_data=False)
    for tensor in list(model.graph.initializer):
        if tensor.data_type == onnx.TensorProto.FLOAT and 4 * int(np.prod(tensor.dims)) > _SMALL_BYTES:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            model.graph.initializer.remove(tensor)
    return _with_outputs(model, (name for node in model.graph.node for name in node.output if name))


def _instrumented_graph(graph: Path, names: Sequence[str]) -> bytes:
    """Return the graph with the largest absolute values of tensors as outputs.

    Each maximum is computed directly after its tensor. At the end of the graph it would keep all tensors in memory.
    """
    masks, model = find_masks(ir.load(graph).graph), onnx.load(graph, load_external_data=False)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        model.graph.node.append(node)
        for name in set(names).intersection(node.output):
            model.graph.node.extend(_max_abs_nodes(name, is_mask=name in masks))
    return _with_outputs(model, [f"{name}/largest" for name in names])


def _max_abs_nodes(name: str, *, is_mask: bool) -> Iterator[onnx.NodeProto]:
    magnitude = f"{name}/magnitude"
    yield helper.make_node("Abs", [name], [magnitude])
    if is_mask:
        threshold = helper.make_tensor("threshold", onnx.TensorProto.FLOAT, [], [MASK_THRESHOLD])
        zero = helper.make_tensor("zero", onnx.TensorProto.FLOAT, [], [0])
        yield helper.make_node("Constant", [], [f"{name}/threshold"], value=threshold)
        yield helper.make_node("Constant", [], [f"{name}/zero"], value=zero)
        yield helper.make_node("Less", [magnitude, f"{name}/threshold"], [f"{name}/counts"])
        counted = [f"{name}/counts", magnitude, f"{name}/zero"]
        yield helper.make_node("Where", counted, [magnitude := f"{name}/counted"])
    yield helper.make_node("ReduceMax", [magnitude], [f"{name}/largest"], keepdims=0)


def _with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> bytes:
    """Replace the outputs of ``model``, and return its bytes."""
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    content: bytes = model.SerializeToString()
    return content


def _open(content: bytes, graph: Path) -> ort.InferenceSession:
    config = {
        "session.disable_prepacking": "1",  # prepacking would hold the weights twice
        "session.model_external_initializers_file_folder_path": str(graph.parent),
    }
    options = session_options(threads=1, optimization="ORT_DISABLE_ALL", config=config)  # others fuse tensors away
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED  # the order of the graph; the default uses more memory
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's errors have no common type
        raise GraphError(f"onnxruntime cannot load {graph.name}: {exc}") from exc
