"""Run a graph on a device with its own memory, through buffers that are reused."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.array_types import Feeds, Float32Array
from runtime.artifact.manifest import TensorSpec
from runtime.session.provider_options import CudaOptions, ProviderOptions, TensorRtOptions
from runtime.session.providers import ExecutionProvider, import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

_MAX_CACHED_SHAPES = 32  # with padding to buckets, a text model has fewer


@dataclass(frozen=True, kw_only=True)
class _Buffers:
    """Arrays on a device for one shape of input, and their binding to the graph."""

    inputs: Mapping[str, Any]
    output: Any
    binding: Any
    run_options: Any


class DeviceRunner:
    """A graph on a device, run by IO binding: one run at a time, with one set of buffers for each input shape.

    Source: https://onnxruntime.ai/docs/performance/tune-performance/iobinding.html
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        output: TensorSpec,
        provider: ExecutionProvider,
        options: ProviderOptions,
        *,
        max_cached_shapes: int = _MAX_CACHED_SHAPES,
    ) -> None:
        """Prepare to run a session of ``provider``. Keep the buffers of at most ``max_cached_shapes`` input shapes."""
        self._session = session
        self._output = output
        self._device = provider.device
        self._device_id = options.device_id if isinstance(options, CudaOptions | TensorRtOptions) else 0
        self._cuda_graphs = isinstance(options, CudaOptions) and options.cuda_graphs
        self._max_cached_shapes = max_cached_shapes
        self._cache: OrderedDict[tuple[tuple[int, ...], ...], _Buffers] = OrderedDict()
        self._shapes_seen = 0
        self._lock = threading.Lock()

    @property
    def cached_shapes(self) -> list[tuple[tuple[int, ...], ...]]:
        """The input shapes whose buffers are kept, the one used last at the end."""
        return list(self._cache)

    def run(self, feeds: Feeds) -> Float32Array:
        """Return the output of the graph for ``feeds``: ``[batch, output_dim]`` float32."""
        with self._lock:
            buffers = self._find_buffers(feeds)
            for name, array in feeds.items():
                buffers.inputs[name].update_inplace(np.ascontiguousarray(array))
            self._session.run_with_iobinding(buffers.binding, buffers.run_options)
            vectors: Float32Array = buffers.output.numpy().copy()  # on a CPU, numpy() is a view of the buffer
        return vectors

    def _find_buffers(self, feeds: Feeds) -> _Buffers:
        shapes = tuple(array.shape for array in feeds.values())
        if shapes not in self._cache:
            # A captured CUDA graph points into its buffers, so these are never freed.
            if len(self._cache) >= self._max_cached_shapes and not self._cuda_graphs:
                self._cache.popitem(last=False)
            self._cache[shapes] = self._make_buffers(feeds)
        self._cache.move_to_end(shapes)
        return self._cache[shapes]

    def _make_buffers(self, feeds: Feeds) -> _Buffers:
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
        run_options = ort.RunOptions()
        if self._cuda_graphs:  # each shape is captured under its own number
            self._shapes_seen += 1
            run_options.add_run_config_entry("gpu_graph_id", str(self._shapes_seen))
        return _Buffers(inputs=inputs, output=output, binding=binding, run_options=run_options)
