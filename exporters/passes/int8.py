"""The weights and the activations of the large products in 8 bits: unsigned with a zero point times signed per channel.

onnxruntime.quantization does the work. What it gets wrong for these graphs is put right here: it would quantize the
products inside attention, the residual stream that a product shares its input with, and stop at shapes that it
cannot infer.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime.quantization as ort
from onnx_ir.convenience import replace_nodes_and_values
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxruntime.quantization.calibrate import save_tensors_data

from exporters.calibration.activations import (
    Samples,
    add_constant,
    channel_peaks,
    check_samples,
    save,
    tensor_ranges,
    to_tensors_data,
)
from exporters.calibration.ranges import infer_types
from exporters.errors import QuantizationError
from exporters.graph.onnx_file import write_graph
from exporters.graph.strip_metadata import strip_metadata
from exporters.passes.smoothquant import input_channels, smooth_channels
from runtime.artifact.variants import CalibrationMethod as Method

_WEIGHTED = ("Conv", "MatMul", "Gemm")
_FOLLOWING = ("Add", "Mul", "Relu", "Sigmoid", "Clip", "MaxPool")  # stay in 8 bits between two convolutions
_ZERO = "relu/zero"
_KEEP_FLOAT_OUTPUT = ("MatMul", "Gemm")  # else the provider would round once more, for the bias alone


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What became of a graph's nodes.

    Attributes:
        int8: The names of those that are computed in 8 bits.
        float32: The names of those that could have been, and were left in float.
    """

    int8: tuple[str, ...]
    float32: tuple[str, ...]


def quantize_static(
    graph: Path, output: Path, samples: Samples, *, method: Method, float_nodes: Collection[str] = ()
) -> Quantized:
    """Writes ``graph`` with 8 bit weights and activations whose scales are fixed: a row's vector depends on it alone.

    Args:
        graph: The float32 graph.
        output: The new ONNX file.
        samples: Batches of the graph's inputs, by name, which show what values are usual.
        method: How their ranges are cut; see :func:`exporters.calibration.activations.tensor_ranges`.
        float_nodes: The names of nodes that stay in float.

    Raises:
        QuantizationError: There are no samples, no such node or method, or onnxruntime cannot do it.
        GraphError: The result is not valid ONNX.
        OSError: The file cannot be written.
    """
    with StaticQuantizer(graph, samples, method=method) as quantizer:
        return quantizer.write(output, float_nodes)


def quantize_dynamic(graph: Path, output: Path, *, float_nodes: Collection[str] = ()) -> Quantized:
    """Writes ``graph`` with 8 bit weights, and activations whose scale is found anew for each batch.

    It needs no samples. But a row's vector depends on the rows beside it: refuse it unless that is wanted.

    Args:
        graph: The float32 graph.
        output: The new ONNX file.
        float_nodes: The names of nodes that stay in float.

    Raises:
        QuantizationError: There is no such node, or onnxruntime cannot do it.
        GraphError: The result is not valid ONNX.
        OSError: The file cannot be written.
    """
    model = _load(graph)
    names = [node.name for node in _weighted(model) if node.op_type == "MatMul"]
    chosen = _choose([str(name) for name in names], float_nodes)
    with tempfile.TemporaryDirectory() as folder, _wrapping():
        path = Path(folder) / "dynamic.onnx"
        ort.quantize_dynamic(
            _without_shapes(model, Path(folder)),
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=list(chosen.int8),
            per_channel=True,
            weight_type=ort.QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        _write(_load(path), output)
    return chosen


class StaticQuantizer:
    """A graph that is prepared and calibrated once, and written with one or another of its nodes in float.

    Attributes:
        model: The float graph as it was prepared for 8 bits; its results are those of the original but for rounding.
        nodes: The names of the nodes that can be computed in 8 bits, in the order of the graph.
    """

    def __init__(self, graph: Path, samples: Samples, *, method: Method) -> None:
        """Runs the samples through ``graph``; see :func:`quantize_static`."""
        check_samples(samples, method)
        self._temporary = tempfile.TemporaryDirectory()
        self._folder = Path(self._temporary.name)
        with _wrapping():
            self.model, weighted = _prepare(_typed(_load(graph), graph), samples)
            following = _following(self.model, weighted)
            self.nodes = tuple(str(node.name) for node in self.model.graph if node in weighted or node in following)
            self._op_types = sorted({node.op_type for node in [*weighted, *following]})
            self._graph = _without_shapes(self.model, self._folder)
            ranges = tensor_ranges(self._graph, self._op_types, samples, method)
        self._ranges = self._folder / "ranges.json"
        save_tensors_data(to_tensors_data(ranges), self._ranges)

    def __enter__(self) -> StaticQuantizer:
        """Returns itself; its temporary files live until the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Removes its temporary files."""
        self._temporary.cleanup()

    def write(self, output: Path, float_nodes: Collection[str] = ()) -> Quantized:
        """Writes the graph to ``output``, with ``float_nodes`` in float; raises as :func:`quantize_static`."""
        chosen = _choose(self.nodes, float_nodes)
        _write(self.quantize(float_nodes), output)
        return chosen

    def quantize(self, float_nodes: Collection[str] = (), *, keep_activations: bool = False) -> ir.Model:
        """Returns the graph in 8 bits.

        Args:
            float_nodes: The names of nodes that stay in float.
            keep_activations: Whether every Relu is kept, also where the lower end of a range does its work.
        """
        chosen = _choose(self.nodes, float_nodes)
        if not chosen.int8:
            return self.model.clone()
        path = self._folder / "static.onnx"
        with _wrapping():
            ort.quantize_static(
                self._graph,
                path,
                op_types_to_quantize=self._op_types,
                nodes_to_quantize=list(chosen.int8),
                per_channel=True,
                activation_type=ort.QuantType.QUInt8,
                weight_type=ort.QuantType.QInt8,
                use_external_data_format=True,
                calibration_cache_path=self._ranges,
                extra_options={
                    "OpTypesToExcludeOutputQuantization": _KEEP_FLOAT_OUTPUT,
                    "QDQKeepRemovableActivations": keep_activations,
                },
            )
        model = _spare_others(_with_shapes(_load(path), self.model), chosen.int8)
        return _without_relu(model, chosen.int8)


def _load(graph: Path) -> ir.Model:
    try:
        return ir.external_data.load_to_model(ir.load(graph))  # its files may be gone when they are wanted
    except Exception as exc:  # protobuf's and the parser's own
        raise QuantizationError(f"cannot read the graph {graph}: {exc}") from exc


def _typed(model: ir.Model, graph: Path) -> ir.Model:
    """Notes the types behind fused operators, which onnx cannot infer: what has none is not calibrated."""
    types = infer_types(graph)
    for node in model.graph:
        for value in node.outputs:
            if value.type is None and value.name in types and types[value.name].is_float:
                value.type = ir.TensorType(ir.DataType.FLOAT)
    return model


def _prepare(model: ir.Model, samples: Samples) -> tuple[ir.Model, list[ir.Node]]:
    """Evens out what goes into the products; returns them, without those that were added for outliers, in float."""
    weighted = _weighted(model)
    smooth_channels(model, weighted, channel_peaks(model, input_channels(weighted), samples))
    RemoveUnusedNodesPass()(model)
    names = {node.name for node in weighted}
    return model, [node for node in model.graph if node.name in names]


def _weighted(model: ir.Model) -> list[ir.Node]:
    """Returns the convolutions and products by constant weights; those inside attention have none.

    A head is left out: the provider makes a Gemm of a product of pooled rows and its bias, and computes that in float.
    """
    linear = [node for node in model.graph if node.op_type in _WEIGHTED and _rank(node.outputs[0]) != 2]
    return [node for node in linear if node.inputs[1] is not None and node.inputs[1].const_value is not None]


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _following(model: ir.Model, weighted: Sequence[ir.Node]) -> list[ir.Node]:
    """Returns what joins convolutions: all that it takes comes from them, or from others of its kind."""
    within = {node for node in weighted if node.op_type == "Conv"}
    following = []
    for node in model.graph:
        sources = [value.producer() for value in node.inputs if value is not None and value.const_value is None]
        if node.op_type in _FOLLOWING and sources and all(source in within for source in sources):
            within.add(node)
            following.append(node)
    return following


def _without_shapes(model: ir.Model, folder: Path) -> Path:
    """Writes ``model`` with types, and no shapes but its inputs' and outputs'.

    What the exporter noted of CLIP's shapes contradicts what onnx infers, and the quantizer stops at that.
    """
    bare = model.clone()
    for node in bare.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    return save(bare, folder / "float.onnx")


def _with_shapes(model: ir.Model, original: ir.Model) -> ir.Model:
    """Gives the tensors their shapes back: the provider fuses Add and LayerNormalization only where it knows them."""
    known = {value.name: value for node in original.graph for value in node.outputs}
    for node in model.graph:
        for value in node.outputs:
            if value.name in known:
                value.shape, value.type = known[value.name].shape, known[value.name].type
    return model


def _choose(nodes: Sequence[str], float_nodes: Collection[str]) -> Quantized:
    unknown = sorted(set(float_nodes) - set(nodes))
    if unknown:
        raise QuantizationError(
            f"there is no node {', '.join(unknown)} to leave in float; there are {', '.join(nodes)}"
        )
    return Quantized(
        int8=tuple(name for name in nodes if name not in float_nodes),
        float32=tuple(name for name in nodes if name in float_nodes),
    )


def _spare_others(model: ir.Model, int8: Collection[str]) -> ir.Model:
    """Gives every node that is not in ``int8`` the float tensor itself, where there is one.

    onnxruntime puts the rounded tensor before all who take it: before the residual Add, too, and before what was to
    stay in float.
    """
    rounded_by = {node for node in model.graph if node.op_type == "QuantizeLinear"}
    for node in rounded_by:
        value = node.inputs[0]
        producer = None if value is None else value.producer()
        if value is None or (
            producer is not None and producer.name in int8 and producer.op_type not in _KEEP_FLOAT_OUTPUT
        ):
            continue  # its float value does not exist in the fused graph
        for restored in (use.node for use in node.outputs[0].uses()):
            for taker, index in list(restored.outputs[0].uses()):
                if taker.name not in int8:
                    taker.replace_input_with(index, value)
    RemoveUnusedNodesPass()(model)
    return model


def _without_relu(model: ir.Model, int8: Collection[str]) -> ir.Model:
    """Writes a Relu of a product in ``int8`` as the larger of it and 0.

    onnxruntime 1.31.1 computes a product in float that feeds a Relu, with weights that it restores in every run: T5's
    feed-forward would be slower than in float.
    """
    for node in [node for node in model.graph if node.op_type == "Relu"]:
        product = None if node.inputs[0] is None else node.inputs[0].producer()
        if product is not None and product.op_type in _KEEP_FLOAT_OUTPUT and product.name in int8:
            zero = model.graph.initializers.get(_ZERO) or add_constant(model.graph, _ZERO, np.array(0, np.float32))
            larger = ir.node("Max", [node.inputs[0], zero], name=node.name)
            replace_nodes_and_values(model.graph, node, [node], [larger], node.outputs, larger.outputs)
    return model


def _write(model: ir.Model, output: Path) -> None:
    strip_metadata(model)
    write_graph(output, model, fused=True)


@contextlib.contextmanager
def _wrapping() -> Iterator[None]:
    """Turns what onnxruntime raises into :class:`QuantizationError`, and its advice into silence."""
    logging.disable(logging.WARNING)
    try:
        yield
    except QuantizationError:
        raise
    except Exception as exc:  # it raises whatever it trips over
        raise QuantizationError(f"onnxruntime cannot quantize the graph: {type(exc).__name__}: {exc}") from exc
    finally:
        logging.disable(logging.NOTSET)
