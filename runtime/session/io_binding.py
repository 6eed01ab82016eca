"""Record the work of a graph on a GPU as CUDA graphs, and replay it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.array_types import Feeds, Float32Array
from runtime.artifact.manifest import TensorSpec
from runtime.session.provider_options import ProviderOptions, device_of, limit_buffers
from runtime.session.providers import import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

_MAX_RECORDED_SHAPES = 32  # with sizes and lengths rounded, a text model has fewer
_NOT_RECORDED = "-1"  # kCudaGraphAnnotationSkip in onnxruntime/core/providers/cuda/cuda_graph.h
# While CUDA records a graph, calls of other threads to it may fail.
_recording = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class _Recording:
    """The arrays on a device that a recorded CUDA graph reads and writes."""

    inputs: Mapping[str, Any]
    output: Any
    binding: Any
    run_options: Any


class GraphRecorder:
    """A session whose runs are recorded, one CUDA graph for each shape of the input, and replayed one at a time.

    A recorded graph points into its buffers, so they are never freed. Their number and size is limited instead: inputs
    of further shapes run without a recording.

    Sources: https://onnxruntime.ai/docs/performance/tune-performance/iobinding.html,
    https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#using-cuda-graphs-preview
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        output: TensorSpec,
        options: ProviderOptions,
        *,
        device: str = "cuda",
        max_recorded_shapes: int = _MAX_RECORDED_SHAPES,
    ) -> None:
        """Prepare to record a session with ``options``, at most ``max_recorded_shapes`` shapes of input.

        ``device`` is ONNX Runtime's name of the device that holds the buffers.
        """
        self._session, self._output = session, output
        self._device, self._device_id = device, device_of(options)
        self._max_bytes = limit_buffers(options)
        self._max_shapes, self._bytes = max_recorded_shapes, 0
        self._recordings: dict[tuple[tuple[int, ...], ...], _Recording] = {}

    @property
    def recorded_shapes(self) -> list[tuple[tuple[int, ...], ...]]:
        """The input shapes that are replayed, in the order of their first runs."""
        return list(self._recordings)

    def run(self, feeds: Feeds) -> Float32Array:
        """Return the output of the graph for ``feeds``: ``[batch, output_dim]`` float32."""
        with _recording:
            recording = self._find_recording(feeds)
            if recording is None:
                unrecorded = _graph_options(_NOT_RECORDED)
                vectors: Float32Array = self._session.run([self._output.name], dict(feeds), unrecorded)[0]
                return vectors
            for name, array in feeds.items():
                recording.inputs[name].update_inplace(np.ascontiguousarray(array))
            self._session.run_with_iobinding(recording.binding, recording.run_options)
            output: Float32Array = recording.output.numpy()
            return output.copy()  # on a CPU, numpy() is a view of the buffer

    def _find_recording(self, feeds: Feeds) -> _Recording | None:
        shapes = tuple(array.shape for array in feeds.values())
        if shapes not in self._recordings:
            size = sum(array.nbytes for array in feeds.values()) + 4 * shapes[0][0] * int(self._output.shape[1])
            too_large = self._max_bytes is not None and self._bytes + size > self._max_bytes
            if too_large or len(self._recordings) >= self._max_shapes:
                return None
            self._bytes += size
            self._recordings[shapes] = self._make_recording(feeds)
        return self._recordings[shapes]

    def _make_recording(self, feeds: Feeds) -> _Recording:
        ort = import_onnxruntime()
        inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(array.copy(), self._device, self._device_id)
            for name, array in feeds.items()
        }
        shape = [len(next(iter(feeds.values()))), self._output.shape[1]]
        output = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self._device, self._device_id)
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output(self._output.name, output)
        number = str(len(self._recordings) + 1)  # each shape is recorded under its own number
        return _Recording(inputs=inputs, output=output, binding=binding, run_options=_graph_options(number))


def _graph_options(number: str) -> onnxruntime.RunOptions:
    run_options = import_onnxruntime().RunOptions()
    run_options.add_run_config_entry("gpu_graph_id", number)
    return run_options
