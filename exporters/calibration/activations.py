"""Measure the range of each tensor of a graph, or the peak of each of its channels, on calibration batches."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TypeAlias, get_args

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnxruntime.quantization import calibrate

from exporters.errors import QuantizationError
from exporters.graph.initializers import add_initializer
from exporters.graph.onnx_file import write_temporary_graph
from runtime.array_types import Array, Feeds
from runtime.artifact.variants import CalibrationMethod
from runtime.errors import one_line
from runtime.machine.threads import available_threads
from runtime.session.options import EXACT_INT8, session_options

Batches: TypeAlias = Sequence[Feeds]

_METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}  # names in onnxruntime
_ENTROPY_BINS = 1024  # onnxruntime's default of 128 equals its number of quantization levels, so it would cut nothing


def check_batches(batches: Batches, method: str = "minmax") -> None:
    """Raise :class:`QuantizationError` if there are no calibration batches or if the method is unknown."""
    if method not in _METHODS:
        raise QuantizationError(f"method is {method!r}, it must be one of {', '.join(get_args(CalibrationMethod))}")
    if not batches or not all(len(array) for batch in batches for array in batch.values()):
        raise QuantizationError("there are no calibration batches for int8; give some items of the real kind")


def open_session(graph: Path) -> onnxruntime.InferenceSession:
    """Open ``graph`` on the CPU provider with ONNX Runtime's default optimizations.

    Raises:
        QuantizationError: onnxruntime cannot load the graph.
    """
    options = session_options(threads=available_threads(), config=EXACT_INT8)
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's exceptions have no other common class
        raise QuantizationError(f"onnxruntime cannot load the graph during quantization: {one_line(exc)}") from exc


def run_batches(session: onnxruntime.InferenceSession, batches: Batches, extra_inputs: Feeds) -> Array:
    """Return the first output of every row, ``[rows, dim]``, with ``extra_inputs`` added to every batch."""
    return np.concatenate([session.run(None, {**batch, **extra_inputs})[0] for batch in batches])


def channel_peaks(model: ir.Model, channels: Mapping[str, int], batches: Batches) -> dict[str, Array]:
    """Return the largest absolute value in each channel of some tensors, ``[channels]`` float32 by tensor.

    Args:
        model: The graph. It is not changed.
        channels: Length of the last axis, by tensor. The graph returns only the peaks, so memory stays that of a run.
        batches: Batches of the graph's inputs, not empty.
    """
    if not channels:
        return {}
    instrumented = model.clone()
    for name, size in channels.items():
        _add_peak(instrumented.graph, name, size)
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(write_temporary_graph(Path(folder) / "peaks.onnx", instrumented))
    outputs = [f"{name}/peak" for name in channels]
    peaks = [np.max(columns, axis=0) for columns in zip(*(session.run(outputs, b) for b in batches), strict=True)]
    return dict(zip(channels, peaks, strict=True))


def tensor_ranges(
    graph: Path, op_types: Sequence[str], batches: Batches, method: CalibrationMethod
) -> dict[str, tuple[float, float]]:
    """Return the range of every input and output of nodes of some types, measured by onnxruntime's calibrators.

    Args:
        graph: The float32 graph.
        op_types: Operator types of the nodes.
        batches: Batches of the graph's inputs, not empty. Memory holds the tensors of one batch.
        method: ``minmax`` takes the extremes. ``entropy`` cuts the histogram where its divergence is smallest.
            ``percentile`` cuts off a hundred-thousandth of the values.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # calibrators print
        calibrator = calibrate.create_calibrator(
            graph,
            op_types,
            str(Path(folder) / "augmented.onnx"),
            calibrate.CalibrationMethod[_METHODS[method]],
            use_external_data_format=True,
            extra_options={"num_bins": _ENTROPY_BINS} if method == "entropy" else {},
        )
        for batch in batches:
            calibrator.collect_data(SimpleNamespace(get_next=iter([batch, None]).__next__))  # one batch at a time
        found = calibrator.compute_data()
    return {name: (float(np.min(data.lowest)), float(np.max(data.highest))) for name, data in found.items()}


def write_ranges(path: Path, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Write ``ranges`` to a file from which onnxruntime's quantizer reads them."""
    tensors = {
        name: calibrate.TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    calibrate.save_tensors_data(calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, tensors), path)


def _add_peak(graph: ir.Graph, name: str, size: int) -> None:
    value = next(value for node in graph for value in node.outputs if value.name == name)
    shape = add_initializer(graph, f"{name}/shape", np.array([-1, size]))
    axis = add_initializer(graph, f"{name}/axis", np.array([0]))
    magnitude = ir.node("Abs", [value])
    rows = ir.node("Reshape", [magnitude.outputs[0], shape])
    peak = ir.node("ReduceMax", [rows.outputs[0], axis], {"keepdims": 0})
    peak.outputs[0].name = f"{name}/peak"
    peak.outputs[0].type, peak.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([size])
    graph.extend([magnitude, rows, peak])
    graph.outputs.append(peak.outputs[0])
