"""Open an ONNX file on one execution provider, without a fallback to another one."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from runtime.artifact.graph_operators import read_operators
from runtime.artifact.manifest import TensorSpec, Tower
from runtime.errors import ArtifactError, IntegrityError, OutOfMemoryError, ProviderError, one_line
from runtime.machine import cpu
from runtime.session.engine_cache import engine_cache
from runtime.session.graph_sessions import OPEN
from runtime.session.graph_version import find_missing_support
from runtime.session.options import ARM_BF16, SLOW_ON_CPU, exact_int8, session_options
from runtime.session.provider_options import (
    CHANNELS_LAST,
    ON_TENSOR_CORES,
    CpuOptions,
    CudaOptions,
    ProviderOptions,
    TensorRtOptions,
    uses_cuda_graphs,
)
from runtime.session.providers import PROVIDERS, ExecutionProvider, find_provider_obstacle, import_onnxruntime
from runtime.session.tensorrt_profile import profile_shapes
from runtime.session.variant_selection import GraphChoice

if TYPE_CHECKING:
    import onnxruntime

_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
# Messages of ONNX Runtime's arena (the second one with a memory limit), of CUDA and its libraries, and of C++.
_OUT_OF_MEMORY = re.compile(
    r"failed to allocate memory|available memory of \d+ is smaller|out of memory|STATUS_ALLOC_FAILED|bad.alloc",
    re.IGNORECASE,
)
_DTYPES = {"tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(float)": "float32"}


def is_out_of_memory(exc: Exception) -> bool:
    """Return whether ONNX Runtime failed for lack of memory."""
    return bool(_OUT_OF_MEMORY.search(str(exc)))


def check_recordable(path: Path) -> None:
    """Check that a CUDA graph can record the ONNX file ``path``.

    Raises:
        ProviderError: It has loops or conditions, whose steps the CPU decides.
    """
    found = sorted(read_operators(path) & _CONTROL_FLOW)
    if found:
        raise ProviderError(f"cuda_graphs cannot record {path}: it has the operator {found[0]}; leave cuda_graphs out")


def check_arm_bf16(path: Path) -> None:
    """Check that the option ``arm_bf16`` has an effect on the ONNX file ``path`` and on this CPU.

    Raises:
        ProviderError: The CPU has no such instructions, or the graph has no ``MatMul``.
    """
    if not cpu.has_arm_bf16():
        raise ProviderError(
            f"arm_bf16 needs Linux on an Arm CPU with instructions for bfloat16, and this {platform.machine()} CPU has "
            "none; leave the option out"
        )
    if "MatMul" not in read_operators(path):  # onnxruntime 1.31 leaves Conv, Gemm and Attention in float32
        raise ProviderError(f"arm_bf16 is for the operator MatMul, and {path} has none; leave the option out")


def open_graph(
    path: Path,
    provider: ExecutionProvider,
    settings: ProviderOptions,
    threads: int,
    further: Mapping[str, str] = MappingProxyType({}),
    *,
    trace: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Open an ONNX file on a provider, without a fallback to another one.

    ``further`` are more provider options. With ``trace``, its runs are recorded in a file whose name begins so.

    Raises:
        ProviderError: The provider is not usable, or cannot load the graph.
        IntegrityError: ONNX Runtime cannot load the graph.
        ArtifactError: The graph is too new for the installed ONNX Runtime.
        OutOfMemoryError: The memory does not suffice, on a CPU.
    """
    ort = import_onnxruntime()
    obstacle = find_provider_obstacle(provider)
    if obstacle:
        raise ProviderError(obstacle)
    if isinstance(settings, CpuOptions) and settings.arm_bf16:
        check_arm_bf16(path)
    try:
        session = ort.InferenceSession(
            str(path),
            _session_options(settings, threads, trace),
            providers=_with_fallbacks(provider, settings, threads, further),
            enable_fallback=False,  # else a failed run continues on the CPU, and only a print() tells
            disabled_optimizers=SLOW_ON_CPU if provider.name == "cpu" else None,
        )
    except Exception as exc:  # onnxruntime's exceptions have no common base class
        missing = find_missing_support(str(exc))
        if missing:  # no other provider of this onnxruntime knows it either
            raise ArtifactError(
                f"{path} is too new for the installed onnxruntime {ort.__version__}: it needs {missing}; upgrade "
                "onnxruntime, or export the artifact again with a lower --opset"
            ) from exc
        if provider.name == "cpu" and is_out_of_memory(exc):
            raise OutOfMemoryError(
                f"there is too little memory to load {path} ({one_line(exc)}); free some, or raise its limit"
            ) from exc
        if provider.name == "cpu":
            raise IntegrityError(
                f"onnxruntime cannot load {path} ({one_line(exc)}); copy or export the artifact again"
            ) from exc
        remedy = "leave cuda_graphs out: it needs every node on the GPU" if uses_cuda_graphs(settings) else ""
        raise ProviderError(
            f"the provider {provider.name} cannot load {path} ({one_line(exc)}); {remedy or 'take another provider'}"
        ) from exc
    if provider.onnxruntime_name not in session.get_providers():  # onnxruntime fell back to the CPU and only logged it
        raise ProviderError(
            f"onnxruntime did not start the provider {provider.name}; fix the cause that it logged above, or take "
            "another provider"
        )
    OPEN.add(session)
    return session


def _session_options(settings: ProviderOptions, threads: int, trace: Path | None) -> onnxruntime.SessionOptions:
    config = dict(exact_int8())
    if isinstance(settings, CpuOptions):
        # Without the stop, threads spin for some 30 ms after a run, and take the time from other batches and Python.
        stop, never = {"session.force_spinning_stop": "1"}, {"session.intra_op.allow_spinning": "0"}
        config |= never if settings.spinning is False else stop
        config |= ARM_BF16 if settings.arm_bf16 else {}
    options = session_options(threads=threads, config=config)
    options.enable_mem_pattern = False  # it would keep an allocation plan for every input shape
    if trace is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(trace)
    return options


def _with_fallbacks(
    provider: ExecutionProvider, settings: ProviderOptions, threads: int, further: Mapping[str, str]
) -> list[tuple[str, dict[str, str]]]:
    """Return ONNX Runtime's list of providers. Nodes that TensorRT does not support run on CUDA."""
    chosen = [(provider.onnxruntime_name, {**settings.settings(threads), **further})]
    if isinstance(settings, TensorRtOptions):
        cuda = CudaOptions(device_id=settings.device_id)
        chosen.append((PROVIDERS["cuda"].onnxruntime_name, cuda.settings(threads)))
    return chosen


def options_for_graph(
    settings: ProviderOptions, tower: Tower, choice: GraphChoice, files: Sequence[Path]
) -> Mapping[str, str]:
    """Return the provider options that depend on the graph, not only on the user's settings.

    ``files`` are the ONNX file of the ``choice``, and the file of its weights if they are outside of it.
    """
    if isinstance(settings, TensorRtOptions):
        return {**engine_cache(settings, files), **(profile_shapes(tower) if settings.profile else {})}
    if not isinstance(settings, CudaOptions) or choice.name != "fp16":
        return {}
    return ON_TENSOR_CORES | (CHANNELS_LAST if tower.preprocessing.kind == "image" else {})


def check_signature(session: onnxruntime.InferenceSession, tower: Tower, path: Path) -> None:
    """Check that a graph that was opened from ``path`` has the inputs and the output of ``tower``.

    Raises:
        IntegrityError: They differ.
    """
    expected = [*tower.inputs, tower.output]
    actual = [
        TensorSpec(name=arg.name, dtype=_DTYPES.get(arg.type, arg.type), shape=tuple(arg.shape))
        for arg in [*session.get_inputs(), *session.get_outputs()]
    ]
    if actual != expected:
        raise IntegrityError(
            f"{path} has the inputs and outputs {actual}, the manifest has {expected}; export the artifact again"
        )
