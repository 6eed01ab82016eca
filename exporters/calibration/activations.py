"""Measure the range of each tensor of a graph, or of each of its channels, on calibration batches."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
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
from exporters.progress import track
from runtime.array_types import Array, Feeds
from runtime.artifact.variants import CalibrationMethod
from runtime.errors import one_line
from runtime.machine.threads import available_threads
from runtime.session.options import exact_int8, session_options

Batches: TypeAlias = Sequence[Feeds]

_GRAM_BYTES = 2**31  # of the Gram matrices of one pass over the batches; little more is in memory
_GRAM_BLOCK = 512  # columns that are multiplied at a time; fewer leave out more of the symmetric half
_METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}  # names in onnxruntime
_ENTROPY_BINS = 1024  # onnxruntime's default of 128 equals its number of quantization levels, so it would cut nothing


def check_batches(batches: Batches, method: str = "minmax") -> None:
    """Raise :class:`QuantizationError` if there are no calibration batches or if the method is unknown."""
    if method not in _METHODS:
        raise QuantizationError(f"method is {method!r}, it must be one of {', '.join(get_args(CalibrationMethod))}")
    if not batches or not all(len(array) for batch in batches for array in batch.values()):
        raise QuantizationError("there are no calibration batches for int8; give some items of the real kind")


def count_rows(batches: Batches) -> int:
    """Return the number of items in ``batches``."""
    return sum(map(_rows, batches))


def track_batches(batches: Batches) -> Iterator[Feeds]:
    """Yield ``batches``; each of their items is a step of the running stage."""
    return track(batches, _rows)


def open_session(graph: Path) -> onnxruntime.InferenceSession:
    """Open ``graph`` on the CPU provider with ONNX Runtime's default optimizations.

    Raises:
        QuantizationError: onnxruntime cannot load the graph.
    """
    options = session_options(threads=available_threads(), config=exact_int8())
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's exceptions have no other common class
        raise QuantizationError(f"onnxruntime cannot load the graph during quantization: {one_line(exc)}") from exc


def run_batches(session: onnxruntime.InferenceSession, batches: Batches, extra_inputs: Feeds) -> Array:
    """Return the first output of every row, ``[rows, dim]``, with ``extra_inputs`` added to every batch."""
    return np.concatenate([session.run(None, {**batch, **extra_inputs})[0] for batch in track_batches(batches)])


def channel_ranges(model: ir.Model, channels: Mapping[str, int], batches: Batches) -> dict[str, Array]:
    """Return the smallest and largest value in each channel of some tensors, ``[2, channels]`` float32 by tensor.

    Args:
        model: The graph. It is not changed.
        channels: Length of the last axis, by tensor. The graph returns only the ranges, so memory stays that of a run.
        batches: Batches of the graph's inputs, not empty.
    """
    lows, highs = _reduce_channels(model, channels, ("ReduceMin", "ReduceMax"), batches)
    return {name: np.stack([lows[name].min(0), highs[name].max(0)]) for name in channels}


def channel_means(model: ir.Model, channels: Mapping[str, int], batches: Batches) -> dict[str, Array]:
    """Return the mean of each channel of some tensors, ``[channels]`` float32 by tensor; see :func:`gram_matrices`."""
    (means,) = _reduce_channels(model, channels, ("ReduceMean",), batches)
    return {name: found.mean(0) for name, found in means.items()}


def gram_matrices(
    model: ir.Model,
    channels: Mapping[str, int],
    ranges: Mapping[str, tuple[float, float]],
    centres: Mapping[str, Array],
    batches: Batches,
) -> Iterator[tuple[str, Array]]:
    """Yield the Gram matrix of the channels of each tensor in 8 bits: its name, and ``[channels, channels]`` float32.

    The matrices of large models fill gigabytes. So there may be several passes over the batches.

    Args:
        model: The graph. It is not changed.
        channels: Number of channels, by tensor. They are the second axis before a convolution, else the last one.
        ranges: Range of each tensor; values outside saturate.
        centres: Value of each channel that counts as 0, ``[channels]``, for the tensors that have one.
        batches: Batches of the graph's inputs, not empty.
    """
    for names in _parts(channels):
        instrumented, counts = model.clone(), list[int]()
        for name in names:
            rows = _add_rows(instrumented.graph, name, channels[name])
            rows = _add_rounding(instrumented.graph, name, rows, *ranges[name])
            if name in centres:
                centre = add_initializer(instrumented.graph, f"{name}/centre", centres[name])
                instrumented.graph.append(centred := ir.node("Sub", [rows, centre]))
                rows = centred.outputs[0]
            counts.append(_add_gram(instrumented.graph, name, rows, channels[name]))
        totals: list[Array] = []
        for found in _run_instrumented(instrumented, sum(counts), batches):
            totals = [total + each for total, each in zip(totals, found, strict=True)] if totals else found
        blocks = iter(totals)
        for name, count in zip(names, counts, strict=True):
            yield name, _mirror([*islice(blocks, count)])


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
        for batch in track_batches(batches):
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


def _reduce_channels(
    model: ir.Model, channels: Mapping[str, int], operators: Sequence[str], batches: Batches
) -> list[dict[str, Array]]:
    """Return, for each of ``operators``, what it makes of the channels: ``[batches, channels]`` by tensor."""
    if not channels:
        return [{} for _ in operators]
    instrumented = model.clone()
    for name, size in channels.items():
        rows = _add_rows(instrumented.graph, name, size)
        axis = add_initializer(instrumented.graph, f"{name}/axis", np.array([0]))
        for operator in operators:
            reduced = ir.node(operator, [rows, axis], {"keepdims": 0})
            _add_output(instrumented.graph, reduced, f"{name}/{operator}", [size])
    runs = _run_instrumented(instrumented, len(channels) * len(operators), batches)
    found = [np.stack(each) for each in zip(*runs, strict=True)]
    return [dict(zip(channels, found[index :: len(operators)], strict=True)) for index in range(len(operators))]


def _rows(batch: Feeds) -> int:
    return len(next(iter(batch.values())))


def _parts(channels: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield the names of tensors in groups whose Gram matrices have a limited size together."""
    names: list[str] = []
    for name, size in channels.items():
        if names and 4 * (size**2 + sum(channels[each] ** 2 for each in names)) > _GRAM_BYTES:
            yield names
            names = []
        names.append(name)
    if names:
        yield names


def _run_instrumented(model: ir.Model, outputs: int, batches: Batches) -> Iterator[list[Array]]:
    """Yield the last ``outputs`` of the graph for each batch."""
    names = [str(value.name) for value in model.graph.outputs[-outputs:]]
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(write_temporary_graph(Path(folder) / "instrumented.onnx", model))
    for batch in track_batches(batches):
        yield session.run(names, batch)


def _add_rows(graph: ir.Graph, name: str, size: int) -> ir.Value:
    """Add a node that gives the tensor ``name`` as a matrix of ``size`` columns."""
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    value = next(value for value in values if value.name == name)
    kernels = [use.node.inputs[1] for use in value.uses() if use.node.op_type == "Conv"]
    if shape := next((kernel.shape for kernel in kernels if kernel is not None and kernel.shape), None):
        last = ir.node("Transpose", [value], {"perm": [0, *range(2, len(shape)), 1]})
        graph.append(last)
        value = last.outputs[0]
    rows = ir.node("Reshape", [value, add_initializer(graph, f"{name}/shape", np.array([-1, size]))])
    graph.append(rows)
    return rows.outputs[0]


def _add_rounding(graph: ir.Graph, name: str, rows: ir.Value, low: float, high: float) -> ir.Value:
    """Add nodes that round a tensor as onnxruntime's int8 graph does: unsigned, with 0 at an integer."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255 or 1.0
    scale = add_initializer(graph, f"{name}/step", np.array(step, np.float32))
    zero = add_initializer(graph, f"{name}/zero", np.array(round(-low / step), np.uint8))
    rounded = ir.node("QuantizeLinear", [rows, scale, zero])
    back = ir.node("DequantizeLinear", [rounded.outputs[0], scale, zero])
    graph.extend([rounded, back])
    return back.outputs[0]


def _add_gram(graph: ir.Graph, name: str, rows: ir.Value, size: int) -> int:
    """Add outputs with the Gram matrix of ``rows``, and return their number; :func:`_mirror` joins them.

    Each is the product of a block of columns and all columns from there on. The rest is the same by symmetry.
    """
    starts = range(0, size, _GRAM_BLOCK)
    for start in starts:
        stop = min(size, start + _GRAM_BLOCK)
        later = rows if start == 0 else _add_columns(graph, f"{name}/from/{start}", rows, start, size)
        block = later if stop == size else _add_columns(graph, f"{name}/block/{start}", rows, start, stop)
        columns = ir.node("Transpose", [block], {"perm": [1, 0]})
        graph.append(columns)
        product = ir.node("MatMul", [columns.outputs[0], later])
        _add_output(graph, product, f"{name}/gram/{start}", [stop - start, size - start])
    return len(starts)


def _add_columns(graph: ir.Graph, name: str, rows: ir.Value, start: int, stop: int) -> ir.Value:
    bounds = {"start": start, "stop": stop, "axis": 1}
    inputs = [add_initializer(graph, f"{name}/{kind}", np.array([number])) for kind, number in bounds.items()]
    graph.append(part := ir.node("Slice", [rows, *inputs]))
    return part.outputs[0]


def _mirror(blocks: Sequence[Array]) -> Array:
    """Return the symmetric matrix whose ``blocks`` on and above the diagonal have all columns from the diagonal on."""
    size, start = blocks[0].shape[1], 0
    gram: Array = np.empty((size, size), blocks[0].dtype)
    for block in blocks:
        stop = start + len(block)
        gram[start:stop, start:] = block
        gram[stop:, start:stop] = block[:, len(block) :].T
        start = stop
    return gram


def _add_output(graph: ir.Graph, node: ir.Node, name: str, shape: Sequence[int]) -> None:
    """Add ``node`` to the graph, with its result as the graph's last output."""
    value = node.outputs[0]
    value.name, value.type, value.shape = name, ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
    graph.append(node)
    graph.outputs.append(value)
