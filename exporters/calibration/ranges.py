"""How large the values within a graph become; what their types are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper

from exporters.errors import GraphError
from exporters.graph.attention_masks import MASK_MAGNITUDE, find_masked

_SMALL_BYTES = 1024
_FLOAT = "tensor(float)"


@dataclass(frozen=True)
class TensorType:
    """A tensor within a graph.

    Attributes:
        is_float: Whether it is float32.
        rank: The number of its axes; 0 also where onnxruntime cannot tell.
    """

    is_float: bool
    rank: int


def measure_ranges(graph: Path, samples: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> dict[str, float]:
    """Runs a float32 graph on the CPU, not optimized, and returns how large its float32 tensors become.

    What fills the masked places of an attention mask (see :mod:`exporters.graph.attention_masks`) does not count. The bodies of
    loops and conditions are not measured. One sample is in memory at a time, and of each tensor one number is kept.

    Args:
        graph: The ONNX file; its weights may lie beside it.
        samples: Inputs by name, one mapping for each run.

    Returns:
        The largest absolute value by the name of the tensor, over all samples; NaN where the graph itself gives NaN.

    Raises:
        GraphError: onnxruntime cannot run the graph on these samples, or there are none.
    """
    if not samples:
        raise GraphError("no samples to measure the graph's ranges with; pass one at least")
    names = [name for name, kind in infer_types(graph).items() if kind.is_float]
    session = _open(_measuring_graph(graph, names), graph)
    largest = np.zeros(len(names), np.float32)
    for sample in samples:
        largest = np.maximum(largest, _run(session, sample, graph))
    return dict(zip(names, largest.tolist(), strict=True))


def infer_types(graph: Path) -> dict[str, TensorType]:
    """Returns the type of what each node gives, by name, bodies left out.

    onnxruntime infers them, which knows the operators of its own domain; the weights are not loaded.

    Raises:
        GraphError: onnxruntime cannot load the graph.
    """
    outputs = _open(_weightless_graph(graph), graph).get_outputs()
    return {output.name: TensorType(output.type == _FLOAT, len(output.shape)) for output in outputs}


def _weightless_graph(graph: Path) -> bytes:
    """Returns the graph with inputs instead of weights, and what each node gives as an output."""
    model = onnx.load(graph, load_external_data=False)
    large = [tensor for tensor in model.graph.initializer if _is_large(tensor)]
    for tensor in large:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        model.graph.initializer.remove(tensor)
    _replace_outputs(model, (name for node in model.graph.node for name in node.output if name))
    content: bytes = model.SerializeToString()
    return content


def _is_large(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.FLOAT and 4 * int(np.prod(tensor.dims)) > _SMALL_BYTES


def _measuring_graph(graph: Path, names: Sequence[str]) -> bytes:
    """Returns the graph with the largest magnitudes of tensors as its outputs, each made right behind its tensor.

    At the end of the graph they would keep all tensors in memory until then.
    """
    masked, model = find_masked(ir.load(graph).graph), onnx.load(graph, load_external_data=False)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        model.graph.node.append(node)
        for name in set(names).intersection(node.output):
            model.graph.node.extend(_largest_magnitude(name, name in masked))
    _replace_outputs(model, [f"{name}/largest" for name in names])
    content: bytes = model.SerializeToString()
    return content


def _largest_magnitude(name: str, is_masked: bool) -> Iterator[onnx.NodeProto]:
    magnitude = f"{name}/magnitude"
    yield helper.make_node("Abs", [name], [magnitude])
    if is_masked:
        filling = helper.make_tensor("filling", onnx.TensorProto.FLOAT, [], [MASK_MAGNITUDE])
        nothing = helper.make_tensor("nothing", onnx.TensorProto.FLOAT, [], [0])
        yield helper.make_node("Constant", [], [f"{name}/filling"], value=filling)
        yield helper.make_node("Constant", [], [f"{name}/nothing"], value=nothing)
        yield helper.make_node("Less", [magnitude, f"{name}/filling"], [f"{name}/counts"])
        counted = [f"{name}/counts", magnitude, f"{name}/nothing"]
        yield helper.make_node("Where", counted, [magnitude := f"{name}/counted"])
    yield helper.make_node("ReduceMax", [magnitude], [f"{name}/largest"], keepdims=0)


def _replace_outputs(model: onnx.ModelProto, names: Iterable[str]) -> None:
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)


def _open(content: bytes, graph: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # else tensors are fused away
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED  # the graph's; the default one keeps tensors for longer
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.add_session_config_entry("session.disable_prepacking", "1")  # it would hold the weights twice
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.parent))
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's errors have no common type
        raise GraphError(f"onnxruntime cannot load {graph.name}: {exc}") from exc


def _run(session: ort.InferenceSession, sample: Mapping[str, np.ndarray[Any, Any]], graph: Path) -> Any:
    try:
        return np.stack(session.run(None, dict(sample)))
    except Exception as exc:  # onnxruntime's errors have no common type
        raise GraphError(f"{graph.name} cannot be run on the samples, mend their names and shapes: {exc}") from exc
