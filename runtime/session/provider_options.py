"""What can be set of each execution provider, by names that say what they mean, and its translation to ONNX Runtime's.

Sources: https://onnxruntime.ai/docs/execution-providers, the pages of CUDA, TensorRT and OpenVINO.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args, get_type_hints

from runtime.errors import UsageError

CACHE_VARIABLE = "EMBEDDING_BACKBONES_CACHE"
_PRECISIONS = {"auto": "f32", "bf16": "bf16", "fp32": "f32"}
Settings: TypeAlias = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class CpuOptions:
    """Settings of ``cpu``.

    Attributes:
        spinning: Whether idle threads of a run wait actively: a little faster on a machine of one's own, and at the
            cost of everybody else on a shared one.
    """

    spinning: bool = True

    def settings(self, threads: int) -> Settings:
        """Returns ONNX Runtime's provider options."""
        return {}


@dataclass(frozen=True, kw_only=True)
class CudaOptions:
    """Settings of ``cuda``.

    Attributes:
        device_id: The GPU, from 0.
        tf32: Whether matrix products and convolutions may round their inputs to 10 bits of mantissa, which ONNX Runtime
            does unless told otherwise (https://github.com/microsoft/onnxruntime/issues/19288). Faster, and further
            from torch than ``verify`` allows.
        memory_limit_bytes: Most memory of the GPU that the session's arena takes; ``None`` for no limit.
        cudnn_search: How cuDNN finds an algorithm for each shape of convolution: by ``heuristic``, or by measuring
            (``exhaustive``), which takes a second or more for every new shape.
        cuda_graphs: Whether the work for each shape is recorded once and then replayed. For small batches of few
            shapes; graphs with loops (PointNet++) cannot.
    """

    device_id: int = 0
    tf32: bool = False
    memory_limit_bytes: int | None = None
    cudnn_search: Literal["heuristic", "exhaustive"] = "heuristic"
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        """Refuses what no GPU has."""
        _check_device(self.device_id)
        if self.memory_limit_bytes is not None and self.memory_limit_bytes < 1:
            raise UsageError(f"memory_limit_bytes is {self.memory_limit_bytes}, it must be above 0")

    def settings(self, threads: int) -> Settings:
        """Returns ONNX Runtime's provider options."""
        settings = {
            "device_id": str(self.device_id),
            "use_tf32": str(int(self.tf32)),
            "cudnn_conv_algo_search": self.cudnn_search.upper(),
            # By the next power of two, as is the default, a long text can double what is held for good:
            # https://github.com/qdrant/fastembed/issues/570
            "arena_extend_strategy": "kSameAsRequested",
            "enable_cuda_graph": str(int(self.cuda_graphs)),
        }
        if self.memory_limit_bytes is not None:
            settings["gpu_mem_limit"] = str(self.memory_limit_bytes)
        return settings


@dataclass(frozen=True, kw_only=True)
class TensorRtOptions:
    """Settings of ``tensorrt``. What TensorRT does not take runs on CUDA.

    Attributes:
        device_id: The GPU, from 0.
        fp16: Whether TensorRT may compute in float16, further from torch than ``verify`` allows.
        cache_folder: Where compiled engines are kept for the next start; ``None`` for a folder of this user's.
    """

    device_id: int = 0
    fp16: bool = False
    cache_folder: str | None = None

    def __post_init__(self) -> None:
        """Refuses what no GPU has."""
        _check_device(self.device_id)

    def settings(self, threads: int) -> Settings:
        """Returns ONNX Runtime's provider options."""
        settings = {"device_id": str(self.device_id), "trt_fp16_enable": str(int(self.fp16))}
        folder = usable_cache("tensorrt", self.cache_folder)
        if folder:
            settings |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": folder}
        return settings


@dataclass(frozen=True, kw_only=True)
class OpenVinoOptions:
    """Settings of ``openvino``, on the CPU.

    Attributes:
        dtype: What is computed in. ``auto`` takes ``bf16`` where the CPU has units for it (AMX) and the artifact's
            golden vectors keep a cosine similarity of 0.9999 to torch's on this machine, else ``fp32``.
        hint: Whether one call at a time shall be fast (``latency``), or several at once (``throughput``).
        cache_folder: Where compiled graphs are kept for the next start; ``None`` for a folder of this user's.
    """

    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    hint: Literal["latency", "throughput"] = "latency"
    cache_folder: str | None = None

    def settings(self, threads: int) -> Settings:
        """Returns ONNX Runtime's provider options; ``auto`` that nobody has decided is ``fp32``."""
        config = {
            # Left alone, OpenVINO computes in bfloat16 on CPUs that have it, whatever was exported.
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


def settle_options(provider: str, options: ProviderOptions | None) -> tuple[str, ProviderOptions | None]:
    """Returns the provider to use and its options: options that are given name their provider.

    Raises:
        UsageError: They are another provider's.
    """
    if options is None:
        return provider, None
    owner = next((name for name, kind in OPTIONS.items() if isinstance(options, kind)), None)
    if owner is None or provider not in ("auto", owner):
        raise UsageError(
            f"provider_options are {type(options).__name__}, which are not those of the provider {provider}"
        )
    return owner, options


def parse_options(provider: str, words: Sequence[str]) -> ProviderOptions | None:
    """Returns the options that a command line's ``KEY=VALUE`` words say; ``None`` for no words.

    Raises:
        UsageError: There is no such key, or its value does not fit; or no provider is named.
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
    """Returns ``options`` for another GPU.

    Raises:
        UsageError: They are not a GPU's.
    """
    if not isinstance(options, CudaOptions | TensorRtOptions):
        raise UsageError("device_ids are GPUs; give provider='cuda' or 'tensorrt' with them")
    return dataclasses.replace(options, device_id=device_id)


def default_cache(name: str) -> Path:
    """Returns this user's folder for ``name``, which need not be there.

    Raises:
        RuntimeError: The user has no home.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache")
    return Path(os.environ.get(CACHE_VARIABLE) or Path(home, "embedding-backbones"), name).expanduser()


def usable_cache(name: str, folder: str | None) -> str | None:
    """Returns ``folder``, by default one of this user's, made if need be; ``None`` where the default is not writable.

    Raises:
        UsageError: The folder that was named cannot be made.
    """
    try:
        place = Path(folder).expanduser() if folder else default_cache(name)
        place.mkdir(parents=True, exist_ok=True)
        writable = os.access(place, os.W_OK)
    except (OSError, RuntimeError):  # read-only, or a user without a home
        writable = False
    if folder and not writable:
        raise UsageError(f"the cache folder {folder} cannot be written; name another one")
    return str(place) if writable else None


def _parse(kind: object, text: str, word: str) -> object:
    if kind is bool:
        if text not in ("true", "false"):
            raise UsageError(f"--provider-option {word}: say true or false")
        return text == "true"
    if kind in (int, int | None):
        try:
            return int(text)
        except ValueError:
            raise UsageError(f"--provider-option {word}: {text!r} is no whole number") from None
    choices = get_args(kind)
    if choices and str not in choices and text not in choices:
        raise UsageError(f"--provider-option {word}: take one of {', '.join(choices)}")
    return text


def _check_device(device_id: int) -> None:
    if device_id < 0:
        raise UsageError(f"device_id is {device_id}, it must be 0 or more")
