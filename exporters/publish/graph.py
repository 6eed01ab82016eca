"""Change the inputs and outputs of a graph to those that a consumer expects. The computation stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.errors import PublishError
from exporters.graph.onnx_file import EXTERNAL_DATA_THRESHOLD_BYTES
from exporters.publish.source import Source
from runtime.artifact.variants import VariantName

_NORMALISING = ("Transpose", "Cast", "Div", "Mul", "Sub", "Add")
_CHANNELS = 3


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph. If it is too large for protobuf, its weights go to ``NAME_data``, as on the hub."""
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > EXTERNAL_DATA_THRESHOLD_BYTES:
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}_data")
    else:
        path.write_bytes(model.SerializeToString(deterministic=True))


def image_graph(source: Source, variant: VariantName, input_name: str, output_name: str) -> onnx.ModelProto:
    """Return an image graph that takes normalised pixels, exact in sessions with default settings."""
    model = source.load_exact_graph("image", variant)
    take_pixel_values(model, input_name, source.image.crop_size)
    rename_output(model, output_name)
    return model


def rename_output(model: onnx.ModelProto, name: str) -> None:
    """Give the only output another name."""
    graph = model.graph
    (output,) = graph.output
    _make_room(graph, name)
    if output.name != name:
        graph.node.append(helper.make_node("Identity", [output.name], [name]))
        output.name = name


def add_token_output(model: onnx.ModelProto, tensor: str, dtype: int, width: int, name: str) -> None:
    """Put the token features ``tensor`` before the other outputs, as float32 ``[batch, sequence, width]``."""
    graph = model.graph
    _make_room(graph, name)
    tensor = f"{name}/inner" if tensor == name else tensor
    if dtype == TensorProto.FLOAT:
        graph.node.append(helper.make_node("Identity", [tensor], [name]))
    else:
        graph.node.append(helper.make_node("Cast", [tensor], [name], to=TensorProto.FLOAT))
    batch, sequence = _axes(graph.input[0])
    graph.output.insert(0, helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, sequence, width]))


def use_attention_mask(model: onnx.ModelProto) -> None:
    """Replace the input ``pooling_mask`` by ``attention_mask``: the tokens of a prompt are then pooled, too."""
    inputs = [each for each in model.graph.input if each.name != "pooling_mask"]
    if len(inputs) < len(model.graph.input):
        _set_inputs(model.graph, inputs)
        model.graph.node.insert(0, helper.make_node("Identity", ["attention_mask"], ["pooling_mask"]))


def add_token_types(model: onnx.ModelProto) -> None:
    """Add an input ``token_type_ids`` that nothing reads, for consumers that always give it."""
    names = [each.name for each in model.graph.input]
    if "token_type_ids" not in names:
        axes = _axes(model.graph.input[0])
        model.graph.input.append(helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, axes))


def add_row_axis(model: onnx.ModelProto, name: str) -> None:
    """Make the only output ``[batch, 1, dim]``: one token that needs no pooling."""
    graph = model.graph
    (output,) = graph.output
    batch, dim = _axes(output)
    graph.initializer.append(numpy_helper.from_array(np.array([1]), f"{name}/axes"))
    graph.node.append(helper.make_node("Unsqueeze", [output.name, f"{name}/axes"], [name]))
    graph.output[0].CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 1, dim]))


def take_pixel_values(model: onnx.ModelProto, name: str, side: int) -> None:
    """Let the graph take normalised pixels, ``[batch, 3, side, side]`` float32, instead of bytes.

    Before: ``pixels`` -> Transpose, Cast, Div, Sub, Div -> the network. After: ``name`` -> the network.

    Raises:
        PublishError: The graph does not begin with these steps.
    """
    graph, old = model.graph, model.graph.input[0].name
    is_raw = graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    steps = _normalising_nodes(graph, old) if is_raw else []
    _make_room(graph, name)
    last = steps[-1].output[0] if steps else old
    for node in graph.node:
        for index, used in enumerate(node.input):
            if used == last or (used == old and node.op_type == "Shape" and _reads_batch_only(node)):
                node.input[index] = name
    batch = _axes(graph.input[0])[0]
    shape = [batch, _CHANNELS, side, side]
    _set_inputs(graph, [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)])
    _remove_nodes(graph, steps)


def take_padded_ids(model: onnx.ModelProto, name: str, length: int, pad: int | None) -> None:
    """Let a text graph take ids alone: int32 ``[batch, length]``, padded with ``pad``.

    If ``pad`` is ``None``, all tokens are attended to. This is right for causal models, which read their vector from
    the first token at the end of the text.
    """
    graph = model.graph
    _make_room(graph, name)
    batch = _axes(graph.input[0])[0]
    nodes = [helper.make_node("Cast", [name], ["input_ids"], to=TensorProto.INT64)]
    if "attention_mask" in {each.name for each in graph.input}:
        other = np.array(-1 if pad is None else pad, np.int64)
        graph.initializer.append(numpy_helper.from_array(other, f"{name}/pad"))
        nodes += [
            helper.make_node("Equal", ["input_ids", f"{name}/pad"], [f"{name}/is_pad"]),
            helper.make_node("Not", [f"{name}/is_pad"], [f"{name}/is_token"]),
            helper.make_node("Cast", [f"{name}/is_token"], ["attention_mask"], to=TensorProto.INT64),
        ]
    _set_inputs(graph, [helper.make_tensor_value_info(name, TensorProto.INT32, [batch, length])])
    _set_nodes(graph, [*nodes, *graph.node])


def _normalising_nodes(graph: onnx.GraphProto, start: str) -> list[onnx.NodeProto]:
    constants = {each.name for each in graph.initializer if np.prod(each.dims) <= _CHANNELS}
    current, steps = start, list[onnx.NodeProto]()
    while True:
        nodes = [node for node in graph.node if current in node.input and node.op_type != "Shape"]
        transposed = any(node.op_type == "Transpose" for node in steps)
        if len(nodes) != 1 or not _normalises(nodes[0], current, constants, transposed=transposed):
            break
        steps.append(nodes[0])
        current = nodes[0].output[0]
    if not transposed:
        raise PublishError("the image graph does not begin with the normalisation of pixels; publish another variant")
    return steps


def _normalises(node: onnx.NodeProto, current: str, constants: Iterable[str], *, transposed: bool) -> bool:
    others = [name for name in node.input if name != current]
    casts_to = [attribute.i for attribute in node.attribute if node.op_type == "Cast"]
    return (
        node.op_type in _NORMALISING
        and set(others) <= set(constants)
        and casts_to in ([], [TensorProto.FLOAT])
        and not (transposed and node.op_type == "Transpose")
    )


def _reads_batch_only(node: onnx.NodeProto) -> bool:
    return {attribute.name: attribute.i for attribute in node.attribute}.get("end") == 1


def _remove_nodes(graph: onnx.GraphProto, removed: Sequence[onnx.NodeProto]) -> None:
    """Remove nodes, and the constants that only they read."""
    outputs = {name for node in removed for name in node.output}
    _set_nodes(graph, [node for node in graph.node if outputs.isdisjoint(node.output)])
    unused = {name for node in removed for name in node.input} - {name for node in graph.node for name in node.input}
    for tensor in [each for each in graph.initializer if each.name in unused]:
        graph.initializer.remove(tensor)


def _make_room(graph: onnx.GraphProto, name: str) -> None:
    """Rename an inner tensor that has the name of a new input or output."""
    if name in {each.name for each in (*graph.input, *graph.output)}:
        return
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{name}/inner" if each == name else each for each in names]
    for each in (*graph.initializer, *graph.value_info):
        if each.name == name:
            each.name = f"{name}/inner"


def _set_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _set_inputs(graph: onnx.GraphProto, inputs: Sequence[onnx.ValueInfoProto]) -> None:
    copies = [onnx.ValueInfoProto.FromString(each.SerializeToString()) for each in inputs]
    del graph.input[:]
    graph.input.extend(copies)


def _axes(value: onnx.ValueInfoProto) -> list[int | str]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
