"""The process that may crash: loads onnxruntime, a provider or CUDA, and prints what it saw as a line of JSON."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.errors import EmbeddingBackbonesError, one_line
from runtime.session.provider_options import OPTIONS
from runtime.session.providers import (
    ExecutionProvider,
    available_providers,
    find_obstacle,
    find_provider,
    import_onnxruntime,
)

if TYPE_CHECKING:
    import onnxruntime

PROBE = Path(__file__).with_name("probe.onnx")
# Small whole numbers: exact in every precision that a provider may compute in.
PROBE_INPUT = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
PROBE_OUTPUT = np.array([[[[44, 64], [92, 136]]]], dtype=np.float32)
_ERRORS_ONLY = 3


def survey() -> dict[str, Any]:
    """Returns the names of the providers that the installed onnxruntime was built with, and its version of CUDA."""
    providers = [provider.name for provider in available_providers()]
    return {"providers": providers, "cuda_version": getattr(import_onnxruntime(), "cuda_version", "") or None}


def probe(name: str) -> dict[str, Any]:
    """Runs the probe graph on the provider of that name and returns ``{}``, or what is in the way."""
    provider = find_provider(name)
    obstacle = find_obstacle(provider)
    if obstacle:
        return {"obstacle": obstacle}
    try:
        session = _open(provider, everything=True)
        (output,) = session.run(None, {"pixels": PROBE_INPUT})
    except Exception as exc:  # noqa: BLE001  onnxruntime raises a dozen types that share no base of their own
        return {"failure": f"failed: {_failure(provider, exc)}"}
    if not np.allclose(output, PROBE_OUTPUT, rtol=1e-3):
        return {"failure": f"computed {output.ravel().tolist()}, where {PROBE_OUTPUT.ravel().tolist()} is right"}
    return {}


def _open(provider: ExecutionProvider, *, everything: bool) -> onnxruntime.InferenceSession:
    """Returns a session on the probe; with ``everything`` onnxruntime refuses to leave a part of it to the CPU."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    if everything and provider.name != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    chosen = [(provider.onnxruntime_name, OPTIONS[provider.name]().settings(1))]
    return ort.InferenceSession(str(PROBE), options, providers=chosen, enable_fallback=False)


def _failure(provider: ExecutionProvider, exc: Exception) -> str:
    """Tells a provider that did not start, whose cause is only in onnxruntime's log, from one that refuses a node."""
    with contextlib.suppress(Exception):
        if provider.onnxruntime_name not in _open(provider, everything=False).get_providers():
            return "onnxruntime did not start it and went on with the CPU"
    return _gist(one_line(exc))


def _gist(message: str) -> str:
    """Returns what CUDA says, where onnxruntime wraps it in C++ signatures."""
    failure = re.search(r"\w+ failure \d+: .*?(?= ; )", message)
    return failure.group() if failure else message


def examine_cuda(runtime_major: str, cudnn_major: str) -> dict[str, Any]:
    """Returns the versions that driver, CUDA runtime and cuDNN tell of themselves, or why they do not.

    Args:
        runtime_major: Major version of the CUDA runtime to look for.
        cudnn_major: Major version of cuDNN to look for.
    """
    with contextlib.suppress(EmbeddingBackbonesError, AttributeError), contextlib.redirect_stdout(None):
        import_onnxruntime().preload_dlls()  # from NVIDIA's wheels, which are on no library path
    driver = _load("nvcuda.dll", "libcuda.so.1")
    return {
        "devices": _ask_library(driver, _device_names),
        "driver": _ask_library(driver, _driver_version),
        "runtime": _ask_library(_load(f"cudart64_{runtime_major}.dll", f"libcudart.so.{runtime_major}"), _cuda_version),
        "cudnn": _ask_library(_load(f"cudnn64_{cudnn_major}.dll", f"libcudnn.so.{cudnn_major}"), _cudnn_version),
    }


def _load(windows: str, linux: str) -> ctypes.CDLL | OSError:
    try:
        return ctypes.CDLL(windows if os.name == "nt" else linux)
    except OSError as exc:
        return exc


def _ask_library(library: ctypes.CDLL | OSError, question: Callable[[ctypes.CDLL], Any]) -> dict[str, Any]:
    if isinstance(library, OSError):
        return {"error": str(library)}
    try:
        return {"found": question(library)}
    except (AttributeError, OSError) as exc:  # a library of that name without the function; one that refuses
        return {"error": str(exc)}


def _call(function: Any, *arguments: Any) -> None:
    status = function(*arguments)
    if status:
        raise OSError(f"{function.__name__} returned {status}")


def _driver_version(library: ctypes.CDLL) -> str:
    """Source: CUDA driver API, cuDriverGetVersion."""
    number = ctypes.c_int()
    _call(library.cuDriverGetVersion, ctypes.byref(number))
    return _decode(number.value)


def _device_names(library: ctypes.CDLL) -> list[str]:
    """Source: CUDA driver API, cuInit, cuDeviceGetCount and cuDeviceGetName."""
    count, name = ctypes.c_int(), ctypes.create_string_buffer(100)
    _call(library.cuInit, 0)
    _call(library.cuDeviceGetCount, ctypes.byref(count))
    names = []
    for index in range(count.value):
        device = ctypes.c_int()
        _call(library.cuDeviceGet, ctypes.byref(device), index)
        _call(library.cuDeviceGetName, name, len(name), device)
        names.append(name.value.decode(errors="replace"))
    return names


def _cuda_version(library: ctypes.CDLL) -> str:
    """Source: CUDA runtime API, cudaRuntimeGetVersion."""
    number = ctypes.c_int()
    _call(library.cudaRuntimeGetVersion, ctypes.byref(number))
    return _decode(number.value)


def _cudnn_version(library: ctypes.CDLL) -> str:
    """Source: cuDNN API, cudnnGetVersion; from version 9 on two digits each are for minor version and patch."""
    library.cudnnGetVersion.restype = ctypes.c_size_t
    number = library.cudnnGetVersion()
    major, rest = divmod(number, 10_000 if number >= 90_000 else 1_000)
    return f"{major}.{rest // 100}.{rest % 100}"


def _decode(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def main(question: str, *words: str) -> None:
    """Answers one question as a line of JSON, which an error of ours is, too."""
    questions: dict[str, Callable[..., dict[str, Any]]] = {"survey": survey, "probe": probe, "cuda": examine_cuda}
    try:
        answer = questions[question](*words)
    except EmbeddingBackbonesError as exc:
        answer = {"obstacle": str(exc)}
    print(f"\n{json.dumps(answer)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
