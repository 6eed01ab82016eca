"""Change the inputs and outputs of a graph to those that a consumer expects. The computation stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from exporters.errors import PublishError
from exporters.graph.initializers import add_initializer
from exporters.graph.onnx_file import EXTERNAL_DATA_THRESHOLD_BYTES
from exporters.publish.source import Source
from runtime.artifact.variants import VariantName

_NORMALISING = ("Transpose", "Cast", "Div", "Mul", "Sub", "Add")
_CHANNELS = 3


def save_graph(model: ir.Model, path: Path) -> None:
    """Write a graph. If it is too large for protobuf, its weights go to ``NAME_data``, as on the hub."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    if sum(tensor.nbytes for tensor in tensors if tensor is not None) > EXTERNAL_DATA_THRESHOLD_BYTES:
        ir.save(model, path, external_data=f"{path.name}_data")
    else:
        path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def image_graph(source: Source, variant: VariantName, input_name: str, output_name: str) -> ir.Model:
    """Return an image graph that takes normalised pixels, exact in sessions with default settings."""
    model = source.load_exact_graph("image", variant)
    take_pixel_values(model, input_name, source.image.crop_size)
    rename_output(model, output_name)
    return model


def text_graph(source: Source, variant: VariantName, output_name: str) -> ir.Model:
    """Return a text graph with one output, exact in sessions with default settings."""
    model = source.load_exact_graph("text", variant)
    if source.token_types:
        add_token_types(model)
    rename_output(model, output_name)
    return model


def rename_output(model: ir.Model, name: str) -> None:
    """Give the only output another name."""
    (output,) = model.graph.outputs
    _make_room(model.graph, name)
    output.name = name


def add_token_output(model: ir.Model, tensor: ir.Value, width: int, name: str) -> None:
    """Put the token features ``tensor`` before the other outputs, as float32 ``[batch, sequence, width]``."""
    graph = model.graph
    tokens = _new_value(graph, name, ir.DataType.FLOAT, [*_axes(graph.inputs[0]), width])
    graph.append(ir.node("Cast", [tensor], {"to": ir.DataType.FLOAT}, outputs=[tokens]))
    graph.outputs.insert(0, tokens)


def use_attention_mask(model: ir.Model) -> None:
    """Replace the input ``pooling_mask`` by ``attention_mask``: the tokens of a prompt are then pooled, too."""
    inputs = {each.name: each for each in model.graph.inputs}
    if mask := inputs.get("pooling_mask"):
        mask.replace_all_uses_with(inputs["attention_mask"])
        model.graph.inputs.remove(mask)


def add_token_types(model: ir.Model) -> None:
    """Add an input ``token_type_ids`` that nothing reads, for consumers that always give it."""
    graph, name = model.graph, "token_type_ids"
    if name not in {each.name for each in graph.inputs}:
        graph.inputs.append(_new_value(graph, name, ir.DataType.INT64, _axes(graph.inputs[0])))


def add_row_axis(model: ir.Model, name: str) -> None:
    """Make the only output ``[batch, 1, dim]``: one token that needs no pooling."""
    graph = model.graph
    (output,) = graph.outputs
    batch, dim = _axes(output)
    rows = _new_value(graph, name, ir.DataType.FLOAT, [batch, 1, dim])
    axes = add_initializer(graph, f"{name}/axes", np.array([1]))
    graph.append(ir.node("Unsqueeze", [output, axes], outputs=[rows]))
    graph.outputs[:] = [rows]


def take_pixel_values(model: ir.Model, name: str, side: int) -> None:
    """Let the graph take normalised pixels, ``[batch, 3, side, side]`` float32, instead of bytes.

    Before: ``pixels`` -> Transpose, Cast, Div, Sub, Div -> the network. After: ``name`` -> the network.

    Raises:
        PublishError: The graph does not begin with these steps.
    """
    graph, old = model.graph, model.graph.inputs[0]
    steps = _normalising_nodes(old) if old.dtype == ir.DataType.UINT8 else []
    pixels = _new_value(graph, name, ir.DataType.FLOAT, [_axes(old)[0], _CHANNELS, side, side])
    (steps[-1].outputs[0] if steps else old).replace_all_uses_with(pixels)
    for node in old.consumers():
        if node.op_type == "Shape" and node.attributes.get_int("end", 0) == 1:  # it reads the batch alone
            node.replace_input_with(0, pixels)
    graph.inputs[:] = [pixels]
    constants = {value for node in steps for value in node.inputs if value is not None and value.is_initializer()}
    graph.remove(steps, safe=True)
    for value in constants:
        if not value.uses():
            del graph.initializers[str(value.name)]


def take_padded_ids(model: ir.Model, name: str, length: int, pad: int | None) -> None:
    """Let a text graph take ids alone: int32 ``[batch, length]``, padded with ``pad``.

    If ``pad`` is ``None``, all tokens are attended to. This is right for causal models, which read their vector from
    the first token at the end of the text.
    """
    graph, inputs = model.graph, {each.name: each for each in model.graph.inputs}
    padded = _new_value(graph, name, ir.DataType.INT32, [_axes(graph.inputs[0])[0], length])
    nodes = [ir.node("Cast", [padded], {"to": ir.DataType.INT64})]
    inputs["input_ids"].replace_all_uses_with(nodes[0].outputs[0])
    if mask := inputs.get("attention_mask"):
        other = add_initializer(graph, f"{name}/pad", np.array(-1 if pad is None else pad, np.int64))
        nodes.append(ir.node("Equal", [nodes[0].outputs[0], other]))
        nodes.append(ir.node("Not", nodes[1].outputs))
        nodes.append(ir.node("Cast", nodes[2].outputs, {"to": ir.DataType.INT64}))
        mask.replace_all_uses_with(nodes[3].outputs[0])
    graph.inputs[:] = [padded]
    graph.insert_before(graph[0], nodes)


def _normalising_nodes(value: ir.Value) -> list[ir.Node]:
    steps: list[ir.Node] = []
    while True:
        nodes = [node for node in value.consumers() if node.op_type != "Shape"]
        transposed = any(node.op_type == "Transpose" for node in steps)
        if len(nodes) != 1 or not _normalises(nodes[0], value, transposed=transposed):
            break
        steps.append(nodes[0])
        value = nodes[0].outputs[0]
    if not transposed:
        raise PublishError("the image graph does not begin with the normalisation of pixels; publish another variant")
    return steps


def _normalises(node: ir.Node, value: ir.Value, *, transposed: bool) -> bool:
    others = [each.const_value for each in node.inputs if each is not None and each is not value]
    return (
        node.op_type in _NORMALISING
        and all(constant is not None and constant.size <= _CHANNELS for constant in others)
        and node.attributes.get_int("to", ir.DataType.FLOAT) == ir.DataType.FLOAT
        and not (transposed and node.op_type == "Transpose")
    )


def list_values(graph: ir.Graph) -> list[ir.Value]:
    """Return the inputs, the constants, and the outputs of all nodes."""
    return [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]


def _new_value(graph: ir.Graph, name: str, dtype: ir.DataType, axes: Sequence[int | str | None]) -> ir.Value:
    """Return a new input or output."""
    _make_room(graph, name)
    return ir.Value(name=name, shape=ir.Shape(axes), type=ir.TensorType(dtype))


def _make_room(graph: ir.Graph, name: str) -> None:
    """Rename an inner tensor that has the name of a new input or output."""
    for value in list_values(graph):
        if value.name == name:
            value.name = f"{name}/inner"


def _axes(value: ir.Value) -> list[int | str | None]:
    return [axis if isinstance(axis, int) else axis.value for axis in value.shape or ()]
