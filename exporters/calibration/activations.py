"""What values a graph's tensors take on samples: a pair for each tensor, or for each channel of one."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import TensorData, TensorsData, create_calibrator

from exporters.errors import QuantizationError
from runtime.artifact.variants import CalibrationMethod as Method
from runtime.errors import one_line
from runtime.machine.threads import available_threads
from runtime.session.options import EXACT_INT8

Array: TypeAlias = np.ndarray[Any, Any]
Samples: TypeAlias = Sequence[Mapping[str, Array]]
Ranges: TypeAlias = Mapping[str, tuple[float, float]]

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}

_ENTROPY_BINS = 1024  # onnxruntime's default, 128, is the number of levels it tries to fit: nothing would be cut


def check_samples(samples: Samples, method: str = "minmax") -> None:
    """Raises :class:`QuantizationError` if there are no samples or there is no such method."""
    if method not in get_args(Method):
        raise QuantizationError(f"method is {method!r}, it must be one of {', '.join(get_args(Method))}")
    if not samples or not all(len(array) for sample in samples for array in sample.values()):
        raise QuantizationError(
            "there are no samples to take the ranges of int8 from; give some items of the real kind"
        )


def open_session(graph: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Opens ``graph`` on the CPU provider, at its default optimizations.

    Args:
        graph: An ONNX file.
        threads: How many it may take; by default as many as affinity mask and container quota allow.

    Raises:
        QuantizationError: onnxruntime does not take the graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads or available_threads(), 3
    options.add_session_config_entry(*next(iter(EXACT_INT8.items())))
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's exceptions have no common class but this one
        raise QuantizationError(f"onnxruntime cannot load the graph on its way to 8 bits: {one_line(exc)}") from exc


def run_all(session: onnxruntime.InferenceSession, samples: Samples, extra: Mapping[str, Array]) -> Array:
    """Returns the first output for every row of ``samples``, ``[rows, dim]``, with ``extra`` fed to every run."""
    return np.concatenate([session.run(None, {**sample, **extra})[0] for sample in samples])


def channel_peaks(model: ir.Model, channels: Mapping[str, int], samples: Samples) -> dict[str, Array]:
    """Returns the largest absolute value in each channel of some tensors over all samples, ``[channels]`` float32.

    Args:
        model: The graph; it is left as it is.
        channels: The length of the last axis, by tensor. Only the peaks leave the graph, so memory stays that of a run.
        samples: Batches of the graph's inputs, not empty.
    """
    if not channels:
        return {}
    probe = model.clone()
    for name, size in channels.items():
        _add_peak(probe.graph, name, size)
    with tempfile.TemporaryDirectory() as folder:
        path = save(probe, Path(folder) / "peaks.onnx")
        session = open_session(path)
    wanted = [_peak_name(name) for name in channels]
    peaks = [np.max(columns, axis=0) for columns in zip(*(session.run(wanted, s) for s in samples), strict=True)]
    return dict(zip(channels, peaks, strict=True))


def tensor_ranges(
    graph: Path, op_types: Sequence[str], samples: Samples, method: Method
) -> dict[str, tuple[float, float]]:
    """Returns the range of every input and output of the nodes of some types, by onnxruntime's calibrators.

    One sample's tensors are in memory at a time: samples are given to the calibrator one by one.

    Args:
        graph: The float graph.
        op_types: The types of node.
        samples: Batches of its inputs, not empty.
        method: ``minmax`` takes the extremes; ``entropy`` cuts where the histogram's divergence is least;
            ``percentile`` cuts a hundred-thousandth of the values.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # they print
        calibrator = create_calibrator(
            graph,
            op_types,
            str(Path(folder) / "augmented.onnx"),
            _METHODS[method],
            use_external_data_format=True,
            extra_options={"num_bins": _ENTROPY_BINS} if method == "entropy" else {},
        )
        for sample in samples:
            calibrator.collect_data(_Reader([sample]))
        found = calibrator.compute_data()
    return {name: (float(np.min(data.lowest)), float(np.max(data.highest))) for name, data in found.items()}


def to_tensors_data(ranges: Ranges) -> TensorsData:
    """Returns ``ranges`` as onnxruntime's quantizer takes them."""
    return TensorsData(
        CalibrationMethod.MinMax,
        {
            name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
            for name, (low, high) in ranges.items()
        },
    )


def save(model: ir.Model, path: Path) -> Path:
    """Writes ``model`` for a moment, the weights beside it, which lifts protobuf's limit; returns ``path``."""
    ir.save(model, path, external_data=f"{path.name}.data")
    return path


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: Samples) -> None:
        self._samples: Iterator[Mapping[str, Array]] = iter(samples)

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self._samples, None)


def _add_peak(graph: ir.Graph, name: str, size: int) -> None:
    value = next(value for node in graph for value in node.outputs if value.name == name)
    shape, axis = (
        add_constant(graph, f"{name}/shape", np.array([-1, size])),
        add_constant(graph, f"{name}/axis", np.array([0])),
    )
    magnitude = ir.node("Abs", [value])
    rows = ir.node("Reshape", [magnitude.outputs[0], shape])
    peak = ir.node("ReduceMax", [rows.outputs[0], axis], {"keepdims": 0})
    peak.outputs[0].name = _peak_name(name)
    peak.outputs[0].type, peak.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([size])
    graph.extend([magnitude, rows, peak])
    graph.outputs.append(peak.outputs[0])


def _peak_name(name: str) -> str:
    return f"{name}/peak"


def add_constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Gives ``graph`` an initializer."""
    value = ir.Value(
        name=name,
        const_value=ir.tensor(array, name=name),
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
    )
    graph.register_initializer(value)
    return value
