"""Multiply square matrices and read memory with each library that could be the fastest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from benchmarks.results.schema import Device, Precision
from runtime.array_types import Array
from runtime.errors import ProviderError
from runtime.machine.cpu import bf16_units
from runtime.session.options import exact_int8, session_options
from runtime.session.provider_options import OPTIONS, OpenVinoOptions
from runtime.session.providers import PROVIDERS, find_provider, find_provider_obstacle, import_onnxruntime

READ_PASSES = 2  # passes of each thread over its part per call, so that starting the threads costs little

Call = Callable[[], object]


class Engine(Protocol):
    """Library that computes on a device."""

    @property
    def device(self) -> Device:
        """Device of the engine."""

    @property
    def precisions(self) -> Sequence[Precision]:
        """Precisions of its products."""

    def product(self, precision: Precision, side: int) -> Call:
        """Return a call that multiplies two matrices ``[side, side]``."""

    def reader(self, size_bytes: int) -> tuple[Call, int] | None:
        """Return a call that reads a buffer, and the number of bytes it reads; ``None`` if the engine has none."""


class Numpy:
    """Engine that reads memory. Its products are not measured: environment variables set the threads of OpenBLAS."""

    device: Device = "cpu"
    precisions: tuple[Precision, ...] = ()

    def __init__(self, place: str, threads: int) -> None:
        """Start ``threads`` threads."""
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def product(self, precision: Precision, side: int) -> Call:
        """Raise an error: numpy has no precisions here."""
        raise NotImplementedError

    def reader(self, size_bytes: int) -> tuple[Call, int]:
        """Let each thread find the maximum of its part. numpy releases the lock of the interpreter for it."""
        count = size_bytes // 4 // self._threads
        parts = list(self._pool.map(lambda _: np.ones(count, np.float32), range(self._threads)))

        def read() -> object:
            return list(self._pool.map(lambda part: [part.max() for _ in range(READ_PASSES)], parts))

        return read, READ_PASSES * self._threads * count * 4


class OnnxRuntime:
    """Engine that runs graphs of one node on an execution provider, with the settings of ``runtime``."""

    def __init__(self, place: str, threads: int) -> None:
        """Check the provider ``place``.

        Raises:
            ProviderError: The provider does not work here.
        """
        self._provider = find_provider(place)
        obstacle = find_provider_obstacle(self._provider)
        if obstacle:
            raise ProviderError(obstacle)
        self._threads = threads
        self.device: Device = self._provider.device
        self.precisions = _PRECISIONS[place] + (("bf16",) if place == "openvino" and bf16_units() else ())

    def product(self, precision: Precision, side: int) -> Call:
        """Return a call that multiplies by a constant, as layers do."""
        generator = np.random.default_rng(0)
        if precision == "int8":
            left = generator.integers(0, 256, (side, side), np.uint8)
            weights = generator.integers(-127, 128, (side, side), np.int8)
            make = integer_product if self._provider.name == "cpu" else dequantized_product
            graph = make(left, weights)
        else:
            dtype = np.float16 if precision == "fp16" else np.float32
            left, weights = generator.standard_normal((2, side, side), np.float32).astype(dtype)
            graph = _graph([("MatMul", ["x", "w"], "y")], left, {"w": weights})
        return self._load(graph, left, precision)

    def reader(self, size_bytes: int) -> tuple[Call, int] | None:
        """Return a call that sums all values on a GPU. On a CPU, onnxruntime would use one thread."""
        if self.device == "cpu":
            return None
        values = np.ones(size_bytes // 4, np.float32)
        return self._load(_graph([("ReduceSum", ["x"], "y")], values, {}), values, "fp32"), values.nbytes

    def _load(self, graph: bytes, left: Array, precision: Precision) -> Call:
        """Return a call that runs ``graph``. Its input and output stay on the device."""
        ort = import_onnxruntime()
        no_fallback = {} if self._provider is PROVIDERS["cpu"] else {"session.disable_cpu_ep_fallback": "1"}
        options = session_options(threads=self._threads, config={**exact_int8(), **no_fallback})
        chosen = [(self._provider.onnxruntime_name, self._settings(precision))]
        session = ort.InferenceSession(graph, options, providers=chosen, enable_fallback=False)
        binding = session.io_binding()
        given = ort.OrtValue.ortvalue_from_numpy(left, self.device, 0)
        binding.bind_ortvalue_input("x", given)
        binding.bind_output("y", self.device, 0)

        def run() -> object:
            session.run_with_iobinding(binding)
            return given  # the binding does not keep it alive

        return run

    def _settings(self, precision: Precision) -> dict[str, str]:
        if self._provider.name != "openvino":
            return OPTIONS[self._provider.name]().settings(self._threads)
        settings = OpenVinoOptions(dtype="bf16" if precision == "bf16" else "fp32").settings(self._threads)
        return {key: value for key, value in settings.items() if key != "cache_dir"}  # these graphs run only once


class Torch:
    """Engine that multiplies with torch, and waits for the GPU."""

    precisions: Sequence[Precision] = ("fp32", "bf16", "fp16", "int8")

    def __init__(self, place: str, threads: int) -> None:
        """Import torch."""
        import torch

        torch.set_num_threads(threads)
        self._torch = torch
        self.device: Device = "cuda" if place == "cuda" else "cpu"

    def product(self, precision: Precision, side: int) -> Call:
        """Return a call that multiplies; int8 is signed times signed here."""
        torch = self._torch
        shape = (side, side)
        if precision == "int8":
            left, right = torch.randint(-127, 128, (2, *shape), dtype=torch.int8, device=self.device)
            return self._awaited(lambda: torch._int_mm(left, right.t()))  # noqa: SLF001  it has no public name
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        left, right = torch.randn((2, *shape), device=self.device).to(dtype)
        return self._awaited(lambda: left @ right)

    def reader(self, size_bytes: int) -> tuple[Call, int]:
        """Return a call that sums all values."""
        values = self._torch.ones(size_bytes // 4, device=self.device)
        return self._awaited(values.sum), values.nbytes

    def _awaited(self, call: Call) -> Call:
        if self.device == "cpu":
            return call

        def wait() -> None:
            call()
            self._torch.cuda.synchronize()

        return wait


_PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "cpu": ("fp32", "int8"),
    "cuda": ("fp32", "fp16"),
    "openvino": ("fp32", "int8"),
}
ENGINES: dict[str, Callable[[str, int], Engine]] = {
    "numpy": Numpy,
    "onnxruntime": OnnxRuntime,
    "openvino": OnnxRuntime,
    "torch": Torch,
}


def integer_product(left: Array, weights: Array) -> bytes:
    """Return a model with MatMulInteger.

    On onnxruntime's CPU provider it was 1.3 times as fast as :func:`dequantized_product`.
    """
    return _graph([("MatMulInteger", ["x", "w", "zero"], "y")], left, {"w": weights, "zero": np.array(128, np.uint8)})


def dequantized_product(left: Array, weights: Array) -> bytes:
    """Return a model with a product between DequantizeLinear and QuantizeLinear: the form that OpenVINO needs."""
    nodes = [
        ("DequantizeLinear", ["x", "scale", "zero"], "floats"),
        ("DequantizeLinear", ["w", "scale"], "constants"),
        ("MatMul", ["floats", "constants"], "products"),
        ("QuantizeLinear", ["products", "large", "zero"], "y"),
    ]
    constants = {"scale": 0.01, "large": 1.0}
    floats = {name: np.array(value, np.float32) for name, value in constants.items()}
    return _graph(nodes, left, {"w": weights, "zero": np.array(128, np.uint8), **floats})


def _graph(nodes: Sequence[tuple[str, list[str], str]], left: Array, constants: dict[str, Array]) -> bytes:
    """Return a model from ``x``, with type and shape of ``left``, to ``y``."""
    from onnx import TensorProto, helper, numpy_helper

    taken = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(left.dtype), left.shape)
    kinds = {"MatMulInteger": TensorProto.INT32, "QuantizeLinear": TensorProto.UINT8}
    kind = kinds.get(nodes[-1][0], taken.type.tensor_type.elem_type)
    graph = helper.make_graph(
        [helper.make_node(operator, given, [output]) for operator, given, output in nodes],
        "ceiling",
        [taken],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = helper.make_opsetid("", 18)
    model: bytes = helper.make_model(graph, ir_version=8, opset_imports=[opset]).SerializeToString()
    return model
