"""Quantize the weights and activations of convolutions and matrix products to 8 bits, static or dynamic.

Activations are unsigned with a zero point; weights are signed, with a scale per channel. onnxruntime.quantization does
the work. :mod:`exporters.passes.int8_graph` corrects its faults for these graphs: it would quantize the products inside
attention and the residual stream, and it would refuse graphs whose shapes it cannot infer.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime.quantization as ort
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exporters.calibration.activations import (
    Batches,
    channel_ranges,
    check_batches,
    tensor_ranges,
    write_ranges,
)
from exporters.errors import QuantizationError
from exporters.graph.onnx_file import load_graph, write_graph
from exporters.graph.strip_metadata import strip_metadata
from exporters.passes import int8_graph
from exporters.passes.int8_weights import restore_exact, round_graph
from exporters.passes.smoothquant import input_channels, spread_channels
from runtime.artifact.variants import CalibrationMethod

_Ranges: TypeAlias = Mapping[str, tuple[float, float]]
_EXTRA_STEP = 4  # the rounding takes one of so many extra batches


def quantize_dynamic(graph: Path, output: Path) -> str | None:
    """Write an int8 copy of ``graph`` that computes the activation scales of each batch (dynamic quantization).

    Dynamic quantization is the default of most tools for transformers and needs no calibration. It makes a vector
    depend on its batch.

    Returns:
        The name of the weights file beside ``output``, or ``None``.

    Raises:
        QuantizationError: The graph cannot be read or quantized.
        OSError: The file cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder, _wrapped_errors():
        model = load_graph(graph)
        weighted = int8_graph.weighted_nodes(model)
        path = Path(folder) / "dynamic.onnx"
        ort.quantize_dynamic(
            int8_graph.write_without_shapes(model, Path(folder)),
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=[str(node.name) for node in weighted if node.op_type == "MatMul"],
            per_channel=True,
            weight_type=ort.QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        return _write(load_graph(path), output)


class StaticQuantizer:
    """A graph that is smoothed and calibrated once, and can be written several times with different float32 nodes.

    The scales of activations are fixed (static quantization), so a vector does not depend on its batch.

    Attributes:
        model: The smoothed float32 graph. Its results equal those of the original but for rounding.
        nodes: Names of the nodes that int8 can compute, in the order of the graph.
    """

    def __init__(
        self, graph: Path, batches: Batches, extra_batches: Batches = (), *, method: CalibrationMethod
    ) -> None:
        """Smooth ``graph``, calibrate it on the batches, and round the weights of its matrix products.

        Args:
            graph: The float32 graph.
            batches: Calibration batches that set the ranges and the rounding: the graph's inputs, by name.
            extra_batches: More batches for the ranges. Only a few of them count for the rounding.
            method: Calibration method, see :func:`exporters.calibration.activations.tensor_ranges`.

        Raises:
            QuantizationError: There are no batches, the method is unknown, or onnxruntime fails.
        """
        check_batches(batches, method)
        self._temporary = tempfile.TemporaryDirectory()
        self._folder = Path(self._temporary.name)
        with _wrapped_errors():
            self.model = load_graph(graph)
            int8_graph.add_missing_types(self.model, graph)
            every_batch = [*batches, *extra_batches]
            nodes, known = _smooth(self.model, every_batch)
            nodes |= int8_graph.joining_nodes(self.model, nodes)
            self.nodes = tuple(str(node.name) for node in self.model.graph if node in nodes)
            self._op_types = sorted({node.op_type for node in nodes})
            ranges = self._find_ranges(nodes, known, every_batch, method)
            rounded = round_graph(self.model, self.nodes, ranges, [*batches, *extra_batches[::_EXTRA_STEP]])
            self._graph = int8_graph.write_without_shapes(rounded, Path(self._temporary.name, "rounded"))
        self._ranges = self._folder / "ranges.json"
        write_ranges(self._ranges, ranges)
        self._last: tuple[tuple[frozenset[str], bool], ir.Model] | None = None

    def _find_ranges(
        self, nodes: Collection[ir.Node], known: _Ranges, batches: Batches, method: CalibrationMethod
    ) -> _Ranges:
        """Return the range of each tensor that int8 rounds. Smoothing has measured those of matrix products."""
        inputs = {value.name for node in nodes for value in node.inputs if value and value.const_value is None}
        if method == "minmax" and self._op_types == ["MatMul"] and known.keys() >= inputs:
            return known  # a run of a calibrator over all batches would find the same
        exact = int8_graph.write_without_shapes(self.model, self._folder)
        measured = tensor_ranges(exact, self._op_types, batches, method)
        limits = {name: known.get(name, (-np.inf, np.inf)) for name in measured}
        return {name: (max(low, limits[name][0]), min(high, limits[name][1])) for name, (low, high) in measured.items()}

    def __enter__(self) -> StaticQuantizer:
        """Return the quantizer; its temporary files exist until the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the temporary files."""
        self._temporary.cleanup()

    def write(self, output: Path, float_nodes: Collection[str] = ()) -> str | None:
        """Write the result of :meth:`quantize` to ``output``; return the name of its weights file, or ``None``."""
        return _write(self.quantize(float_nodes), output)

    def quantize(self, float_nodes: Collection[str] = (), *, keep_activations: bool = False) -> ir.Model:
        """Return the int8 graph.

        Args:
            float_nodes: Names of nodes that stay in float32.
            keep_activations: Whether to keep a Relu whose effect the lower end of the range already has.

        Raises:
            QuantizationError: A node is unknown, or onnxruntime fails.
        """
        if unknown := sorted(set(float_nodes) - set(self.nodes)):
            known = ", ".join(self.nodes)
            raise QuantizationError(f"there is no node {', '.join(unknown)} to keep in float32; there are {known}")
        int8 = [name for name in self.nodes if name not in float_nodes]
        if not int8:
            return self.model.clone()
        key = frozenset(float_nodes), keep_activations
        if self._last is None or self._last[0] != key:  # for a large graph it takes 20 s
            self._last = None
            self._last = key, self._quantize(int8, float_nodes, keep_activations)
        return self._last[1].clone()

    def _quantize(self, int8: Sequence[str], float_nodes: Collection[str], keep_activations: bool) -> ir.Model:
        path = self._folder / "static.onnx"
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # onnx appends to a weights file
        with _wrapped_errors():
            ort.quantize_static(
                self._graph,
                path,
                op_types_to_quantize=self._op_types,
                nodes_to_quantize=int8,
                per_channel=True,
                activation_type=ort.QuantType.QUInt8,
                weight_type=ort.QuantType.QInt8,
                use_external_data_format=True,
                calibration_cache_path=self._ranges,
                extra_options={
                    "OpTypesToExcludeOutputQuantization": int8_graph.FLOAT_OUTPUT_OPERATORS,
                    "QDQKeepRemovableActivations": keep_activations,
                },
            )
            model = load_graph(path)
        int8_graph.restore_shapes(model, self.model)
        int8_graph.restore_float_inputs(model, int8)
        restore_exact(model, self.model, float_nodes)
        RemoveUnusedNodesPass()(model)
        int8_graph.replace_relu(model, int8)
        return model


def _smooth(model: ir.Model, batches: Batches) -> tuple[set[ir.Node], _Ranges]:
    """Smooth the inputs of the matrix products.

    Returns:
        The weighted nodes without the new float32 outlier products, and the ranges of the smoothed tensors.
    """
    weighted = int8_graph.weighted_nodes(model)
    known = spread_channels(model, weighted, channel_ranges(model, input_channels(weighted), batches))
    RemoveUnusedNodesPass()(model)
    names = {node.name for node in weighted}
    return {node for node in model.graph if node.name in names}, known


def _write(model: ir.Model, output: Path) -> str | None:
    strip_metadata(model)
    return write_graph(output, model, fused=True)


@contextlib.contextmanager
def _wrapped_errors() -> Iterator[None]:
    """Turn all exceptions into :class:`QuantizationError`, and silence onnxruntime's advice."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        yield
    except QuantizationError:
        raise
    except Exception as exc:  # onnxruntime's quantizer raises many types
        raise QuantizationError(f"cannot quantize the graph: {type(exc).__name__}: {exc}") from exc
    finally:
        logging.disable(disabled)
