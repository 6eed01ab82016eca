"""Runs a graph on a device with memory of its own, with buffers that are made once and used again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.artifact.manifest import TensorSpec
from runtime.session.provider_options import CudaOptions, ProviderOptions, TensorRtOptions
from runtime.session.providers import ExecutionProvider, import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

Feeds = Mapping[str, np.ndarray[Any, Any]]
Vectors = np.ndarray[Any, np.dtype[np.float32]]
_SHAPES_KEPT = 32  # of which buffers are kept: with buckets, more than a text model has


@dataclass(frozen=True, kw_only=True)
class _Buffers:
    """Arrays on a device for one shape of input, and their binding to the graph."""

    inputs: Mapping[str, Any]
    output: Any
    binding: Any
    run_options: Any


class DeviceRunner:
    """Runs a graph on a device by IO binding: buffers are made once per shape and used again, one run at a time.

    Source: https://onnxruntime.ai/docs/performance/tune-performance/iobinding.html
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        output: TensorSpec,
        provider: ExecutionProvider,
        options: ProviderOptions,
    ) -> None:
        """Keeps the session that ``provider`` runs with ``options``, and the shape of its ``output``."""
        self._session = session
        self._output = output
        self._device = provider.device
        self._device_id = options.device_id if isinstance(options, CudaOptions | TensorRtOptions) else 0
        self._graphs = isinstance(options, CudaOptions) and options.cuda_graphs
        self._kept: OrderedDict[tuple[tuple[int, ...], ...], _Buffers] = OrderedDict()
        self._shapes_seen = 0
        self._lock = threading.Lock()

    def run(self, feeds: Feeds) -> Vectors:
        """Returns the graph's output for ``feeds``: ``[batch, output_dim]`` float32."""
        with self._lock:
            buffers = self._find(feeds)
            for name, array in feeds.items():
                buffers.inputs[name].update_inplace(np.ascontiguousarray(array))
            self._session.run_with_iobinding(buffers.binding, buffers.run_options)
            vectors: Vectors = buffers.output.numpy().copy()  # on a CPU it is the buffer itself
        return vectors

    def _find(self, feeds: Feeds) -> _Buffers:
        shapes = tuple(array.shape for array in feeds.values())
        if shapes not in self._kept:
            # A graph that was captured points into its buffers, so those of CUDA graphs are never given up.
            if len(self._kept) >= _SHAPES_KEPT and not self._graphs:
                self._kept.popitem(last=False)
            self._kept[shapes] = self._make(feeds)
        self._kept.move_to_end(shapes)
        return self._kept[shapes]

    def _make(self, feeds: Feeds) -> _Buffers:
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
        if self._graphs:  # each shape is captured under a number of its own
            self._shapes_seen += 1
            run_options.add_run_config_entry("gpu_graph_id", str(self._shapes_seen))
        return _Buffers(inputs=inputs, output=output, binding=binding, run_options=run_options)
