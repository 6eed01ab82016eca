"""Settings of the execution providers, under clear names, and their translation to ONNX Runtime's options.

Sources: https://onnxruntime.ai/docs/execution-providers, the pages of CUDA, TensorRT and OpenVINO.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias, get_args, get_origin, get_type_hints

from runtime.errors import UsageError
from runtime.machine.cache_folder import usable_cache
from runtime.whole_number import is_whole

_PRECISIONS = {"auto": "f32", "bf16": "bf16", "fp32": "f32"}
Settings: TypeAlias = dict[str, str]
# Options for float16 graphs. If TF32 is off, ONNX Runtime 1.31 also keeps float16 convolutions from the tensor cores.
# Source: CreateCudnnFeExecutionPlan in onnxruntime/core/providers/cuda/nn/conv.cc of
# https://github.com/microsoft/onnxruntime
ON_TENSOR_CORES: Settings = {"use_tf32": "1"}
# The layout of tensor cores. Without it, cuDNN transposes around each convolution.
CHANNELS_LAST: Settings = {"prefer_nhwc": "1"}


@dataclass(frozen=True, kw_only=True)
class CpuOptions:
    """Settings of ``cpu``.

    Attributes:
        spinning: Whether the threads of a run spin while they wait for each other. A run alone is then a little
            faster, but takes CPU time from all else on the machine. ``None``: they do, except in a server.
        memory_limit_bytes: Largest size of a batch in memory, besides the weights; ``None`` for no limit. Batches that
            would take more, by an upper estimate, are split, and run one at a time. An item that would take more by
            itself is unusable.
        arm_bf16: Whether the operator ``MatMul`` rounds its inputs to bfloat16 if one is a weight. This needs an Arm
            CPU with instructions for it, such as AWS Graviton3 and later. ``load`` then embeds the golden items, and
            refuses the option if a vector is below a cosine similarity of 0.9999. Other CPUs refuse it, and so do
            graphs without ``MatMul``, such as those of CNNs. Source: https://aws.github.io/graviton/machinelearning/onnx.html
    """

    spinning: bool | None = None
    memory_limit_bytes: int | None = None
    arm_bf16: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        _check_types(self)
        _check_memory_limit(self.memory_limit_bytes)

    def settings(self, threads: int) -> Settings:
        """Return ONNX Runtime's provider options."""
        return {}


@dataclass(frozen=True, kw_only=True)
class CudaOptions:
    """Settings of ``cuda``.

    Attributes:
        device_id: The GPU, from 0.
        tf32: Whether matrix products and convolutions may round their inputs to 10 bits of mantissa. This is faster.
            ``load`` then verifies the golden vectors, as for each precision below float32. ONNX Runtime itself
            enables TF32 by default (https://github.com/microsoft/onnxruntime/issues/19288). The variant ``fp16`` always
            uses it for what is left in float32: float16 has no more bits of mantissa.
        memory_limit_bytes: Largest size of the session's memory on the GPU, inputs and outputs included; ``None`` for
            no limit.
        cudnn_search: How cuDNN chooses an algorithm for each shape of convolution: by ``heuristic``, or by measuring
            (``exhaustive``). Measuring takes a second or more for every new shape.
        cuda_graphs: Whether the work for each shape is recorded once and then replayed. It helps small batches of few
            shapes. It needs every node on the GPU: graphs with loops (PointNet++) are refused.
    """

    device_id: int = 0
    tf32: bool = False
    memory_limit_bytes: int | None = None
    cudnn_search: Literal["heuristic", "exhaustive"] = "heuristic"
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        _check_types(self)
        _check_device(self.device_id)
        _check_memory_limit(self.memory_limit_bytes)

    def settings(self, threads: int) -> Settings:
        """Return ONNX Runtime's provider options."""
        settings = {
            "device_id": str(self.device_id),
            "use_tf32": str(int(self.tf32)),
            "cudnn_conv_algo_search": self.cudnn_search.upper(),
            # The default, the next power of two, lets a single long text double the memory that is kept for good:
            # https://github.com/qdrant/fastembed/issues/570
            "arena_extend_strategy": "kSameAsRequested",
            "enable_cuda_graph": str(int(self.cuda_graphs)),
        }
        if self.memory_limit_bytes is not None:
            settings["gpu_mem_limit"] = str(self.memory_limit_bytes - (limit_buffers(self) or 0))
        return settings


@dataclass(frozen=True, kw_only=True)
class TensorRtOptions:
    """Settings of ``tensorrt``. Nodes that TensorRT does not support run on CUDA.

    Attributes:
        device_id: The GPU, from 0.
        fp16: Whether TensorRT may compute in float16. Without it, TensorRT computes in TF32, unless the environment
            variable ``NVIDIA_TF32_OVERRIDE`` is 0. In both precisions, ``load`` verifies the golden vectors.
        cache_folder: Folder that keeps compiled engines for the next start; ``None`` for the user's cache folder.
        profile: Whether one engine is compiled for all lengths and sizes of batches. Without, TensorRT compiles again
            whenever a batch exceeds those before.
    """

    device_id: int = 0
    fp16: bool = False
    cache_folder: str | None = None
    profile: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        _check_types(self)
        _check_device(self.device_id)

    def settings(self, threads: int) -> Settings:
        """Return ONNX Runtime's provider options."""
        return {"device_id": str(self.device_id), "trt_fp16_enable": str(int(self.fp16))}


@dataclass(frozen=True, kw_only=True)
class OpenVinoOptions:
    """Settings of ``openvino``, on the CPU.

    Attributes:
        dtype: Precision of the computation. ``auto`` is ``bf16`` if the CPU is faster in it and the golden items keep a
            cosine similarity of 0.9999 to the golden vectors; else ``fp32``. AMX is faster, and AMD's AVX512-BF16.
            ``load`` verifies ``bf16``, too.
        hint: Whether to optimize for a single call at a time (``latency``), or for parallel calls (``throughput``).
        cache_folder: Folder that keeps compiled graphs for the next start; ``None`` for the user's cache folder.
    """

    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    hint: Literal["latency", "throughput"] = "latency"
    cache_folder: str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        _check_types(self)

    def settings(self, threads: int) -> Settings:
        """Return ONNX Runtime's provider options. An undecided ``auto`` is ``fp32``."""
        config = {
            # By default, OpenVINO computes in bfloat16 on CPUs that support it.
            "INFERENCE_PRECISION_HINT": _PRECISIONS[self.dtype],
            "INFERENCE_NUM_THREADS": str(threads),
            "PERFORMANCE_HINT": self.hint.upper(),
        }
        settings = {"device_type": "CPU", "load_config": json.dumps({"CPU": config})}
        folder = usable_cache("openvino", self.cache_folder)
        return settings | ({"cache_dir": folder} if folder else {})


ProviderOptions: TypeAlias = CpuOptions | CudaOptions | TensorRtOptions | OpenVinoOptions
OPTIONS: Mapping[str, type[ProviderOptions]] = MappingProxyType(
    {"cuda": CudaOptions, "tensorrt": TensorRtOptions, "openvino": OpenVinoOptions, "cpu": CpuOptions}
)


def resolve_options(provider: str, options: ProviderOptions | None) -> tuple[str, ProviderOptions | None]:
    """Return the provider to use and its options. Options imply their provider if ``provider`` is ``auto``.

    Raises:
        UsageError: The options belong to another provider.
    """
    if options is None:
        return provider, None
    owner = next((name for name, kind in OPTIONS.items() if isinstance(options, kind)), None)
    if owner is None or provider not in ("auto", owner):
        raise UsageError(f"provider_options is {type(options).__name__}, which is not for the provider {provider}")
    return owner, options


def uses_cuda_graphs(options: ProviderOptions) -> bool:
    """Return whether the work for each shape is recorded and replayed."""
    return isinstance(options, CudaOptions) and options.cuda_graphs


def provider_of(options: ProviderOptions) -> str:
    """Return the name of the provider that ``options`` belong to."""
    return next(name for name, kind in OPTIONS.items() if isinstance(options, kind))


def limit_buffers(options: ProviderOptions) -> int | None:
    """Return the share of the memory limit for the buffers of CUDA graphs, outside of ONNX Runtime's arena."""
    if not isinstance(options, CudaOptions) or options.memory_limit_bytes is None:
        return None
    return options.memory_limit_bytes // 8 if options.cuda_graphs else 0


class ReducedPrecision(NamedTuple):
    """Arithmetic of a provider in less than float32. Its cause and the way out are phrases of an error message."""

    name: Literal["bf16", "tf32", "fp16"]
    cause: str
    way_out: str


def find_reduced_precision(options: ProviderOptions) -> ReducedPrecision | None:
    """Return the precision in which a provider computes if it is less than float32; otherwise ``None``.

    TensorRT uses TF32, and ONNX Runtime has no option against it: https://github.com/microsoft/onnxruntime/issues/26029
    """
    match options:
        case CpuOptions(arm_bf16=True):
            return ReducedPrecision("bf16", "with arm_bf16", "leave the option out")
        case OpenVinoOptions(dtype="bf16"):
            return ReducedPrecision("bf16", "with dtype bf16", "use dtype fp32")
        case CudaOptions(tf32=True):
            return ReducedPrecision("tf32", "with tf32", "leave the option out")
        case TensorRtOptions(fp16=True):
            return ReducedPrecision("fp16", "with fp16", "leave the option out")
        case TensorRtOptions() if not forbids_tf32():
            way_out = "set NVIDIA_TF32_OVERRIDE=0 before the process starts, or use the provider cuda"
            return ReducedPrecision("tf32", "in TensorRT's TF32", way_out)
    return None


def forbids_tf32() -> bool:
    """Return whether the environment forbids NVIDIA's libraries to compute in TF32."""
    return os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"


def device_of(options: ProviderOptions) -> int:
    """Return the number of the GPU that ``options`` name; 0 for other providers."""
    return options.device_id if isinstance(options, CudaOptions | TensorRtOptions) else 0


def parse_options(provider: str, words: Sequence[str]) -> ProviderOptions | None:
    """Parse the ``KEY=VALUE`` words of a command line. Return ``None`` if there are none.

    Raises:
        UsageError: A key is unknown, its value has the wrong type, or no provider is named.
    """
    if not words:
        return None
    if provider not in OPTIONS:
        raise UsageError(f"--provider-option needs --provider: one of {', '.join(OPTIONS)}")
    kind = OPTIONS[provider]
    kinds = get_type_hints(kind)
    values: dict[str, Any] = {}
    for word in words:
        key, _, text = word.partition("=")
        if key not in kinds:
            raise UsageError(f"{provider} has no option {key!r}; it has {', '.join(kinds)}")
        values[key] = _parse(kinds[key], text, word)
    return kind(**values)


def replace_device(options: ProviderOptions, device_id: int) -> ProviderOptions:
    """Return ``options`` for another GPU.

    Raises:
        UsageError: The options are not for a GPU.
    """
    if not isinstance(options, CudaOptions | TensorRtOptions):
        raise UsageError("device_ids are for GPUs; pass provider='cuda' or 'tensorrt' as well")
    return dataclasses.replace(options, device_id=device_id)


def _parse(kind: object, text: str, word: str) -> object:
    if kind in (bool, bool | None):
        if text not in ("true", "false"):
            raise UsageError(f"--provider-option {word}: use true or false")
        return text == "true"
    if kind in (int, int | None):
        try:
            return int(text)
        except ValueError:
            raise UsageError(f"--provider-option {word}: {text!r} is not an integer") from None
    choices = get_args(kind)
    if choices and str not in choices and text not in choices:
        raise UsageError(f"--provider-option {word}: take one of {', '.join(choices)}")
    return text


def _check_types(options: ProviderOptions) -> None:
    for name, kind in get_type_hints(type(options)).items():
        value = getattr(options, name)
        if not _is_instance(value, kind):
            raise UsageError(f"{name} of {type(options).__name__} is {value!r}, it must be {_describe_type(kind)}")


def _is_instance(value: object, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if alternatives := get_args(kind):
        return any(_is_instance(value, each) for each in alternatives)
    if kind is int:
        return is_whole(value)
    return isinstance(value, str | os.PathLike if kind is str else kind)


def _describe_type(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if alternatives := get_args(kind):
        return " or ".join(map(_describe_type, alternatives))
    return {bool: "True or False", int: "a whole number", str: "a path"}.get(kind, "None")


def _check_device(device_id: int) -> None:
    if device_id < 0:
        raise UsageError(f"device_id is {device_id}, it must be 0 or more")


def _check_memory_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UsageError(f"memory_limit_bytes is {limit}, it must be above 0")
