"""Select the nodes of a graph that int8 can compute, and correct the graphs around onnxruntime's quantizer."""

from __future__ import annotations

from collections.abc import Collection, Set
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import replace_nodes_and_values
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exporters.calibration.magnitudes import infer_types
from exporters.graph.initializers import add_initializer
from exporters.graph.onnx_file import write_temporary_graph

FLOAT_OUTPUT_OPERATORS = ("MatMul", "Gemm")  # else the provider would round their output once more, for the bias
_JOINING_OPERATORS = ("Add", "Mul", "Relu", "Sigmoid", "Clip", "MaxPool")  # stay in int8 between two convolutions
_ZERO = "relu/zero"


def add_missing_types(model: ir.Model, graph: Path) -> None:
    """Add the types of the outputs of fused operators, which onnx cannot infer; calibration skips untyped tensors."""
    types = infer_types(graph)
    for node in model.graph:
        for value in node.outputs:
            if value.type is None and value.name in types and types[value.name].is_float:
                value.type = ir.TensorType(ir.DataType.FLOAT)


def weighted_nodes(model: ir.Model) -> list[ir.Node]:
    """Return the convolutions and matrix products with constant weights.

    The products inside attention have no constant weights. A head is left out: the provider fuses the product of pooled
    rows and its bias to a Gemm, which it computes in float.
    """
    linear = [node for node in model.graph if node.op_type in ("Conv", "MatMul", "Gemm")]
    linear = [node for node in linear if (shape := node.outputs[0].shape) is None or len(shape) != 2]
    return [node for node in linear if node.inputs[1] is not None and node.inputs[1].const_value is not None]


def joining_nodes(model: ir.Model, weighted: Set[ir.Node]) -> set[ir.Node]:
    """Return the nodes whose inputs all come from convolutions or from other nodes of this kind."""
    convolutions, joining = {node for node in weighted if node.op_type == "Conv"}, set[ir.Node]()
    for node in model.graph:
        sources = [value.producer() for value in node.inputs if value is not None and value.const_value is None]
        if node.op_type in _JOINING_OPERATORS and sources and (convolutions | joining).issuperset(sources):
            joining.add(node)
    return joining


def write_without_shapes(model: ir.Model, folder: Path) -> Path:
    """Write ``model`` to ``folder`` without the shapes of inner tensors; types and outer shapes stay.

    The exporter's shapes of CLIP contradict the shapes that onnx infers, and the quantizer refuses such a graph.
    """
    bare = model.clone()
    for node in bare.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    folder.mkdir(exist_ok=True)
    return write_temporary_graph(folder / "float.onnx", bare)


def restore_shapes(model: ir.Model, original: ir.Model) -> None:
    """Copy the shapes of tensors from ``original``; the provider needs them to fuse Add with LayerNormalization."""
    known = {value.name: value for node in original.graph for value in node.outputs}
    for node in model.graph:
        for value in node.outputs:
            if value.name in known:
                value.shape, value.type = known[value.name].shape, known[value.name].type


def restore_float_inputs(model: ir.Model, int8: Collection[str]) -> None:
    """Give every node outside ``int8`` the float tensor where onnxruntime gave it the rounded one.

    onnxruntime rounds a tensor for all of its consumers, also for the residual Add and for nodes that stay in float.
    """
    for node in [node for node in model.graph if node.op_type == "QuantizeLinear"]:
        value = node.inputs[0]
        producer = None if value is None else value.producer()
        if producer is not None and producer.name in int8 and producer.op_type not in FLOAT_OUTPUT_OPERATORS:
            continue  # the fused graph has no float value here
        for dequantizer in (use.node for use in node.outputs[0].uses()):
            for consumer, index in list(dequantizer.outputs[0].uses()):
                if consumer.name not in int8:
                    consumer.replace_input_with(index, value)
    RemoveUnusedNodesPass()(model)


def replace_relu(model: ir.Model, int8: Collection[str]) -> None:
    """Replace a Relu after a product in ``int8`` by a Max with 0.

    onnxruntime 1.31.1 computes a product before a Relu in float, and dequantizes its weights in every run. The
    feed-forward layers of T5 would be slower than in float32.
    """
    for node in [node for node in model.graph if node.op_type == "Relu"]:
        product = None if node.inputs[0] is None else node.inputs[0].producer()
        if product is not None and product.op_type in FLOAT_OUTPUT_OPERATORS and product.name in int8:
            zero = model.graph.initializers.get(_ZERO) or add_initializer(model.graph, _ZERO, np.array(0, np.float32))
            larger = ir.node("Max", [node.inputs[0], zero], name=node.name)
            replace_nodes_and_values(model.graph, node, [node], [larger], node.outputs, larger.outputs)
