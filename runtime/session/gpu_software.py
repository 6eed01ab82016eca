"""Read the versions of NVIDIA's software, which choose the kernels of a GPU and so its results and its speed."""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Callable

from runtime.machine import cuda_driver
from runtime.session.providers import PROVIDERS, import_onnxruntime, preload_cuda_libraries


@functools.cache
def gpu_software() -> dict[str, str]:
    """Return the versions of the driver, the CUDA runtime and cuDNN in this process; empty ones are unknown.

    It loads the libraries, as a session on a GPU does. Ask only if there is a GPU.

    Raises:
        ProviderError: onnxruntime cannot be imported.
        MissingDependencyError: onnxruntime is not installed.
    """
    preload_cuda_libraries()
    runtime, cudnn = needed_majors(getattr(import_onnxruntime(), "cuda_version", ""))
    return {
        "driver": cuda_driver.kernel_driver_version() or _ask(cuda_driver.cuda_driver_version),
        "cuda": _ask(cuda_driver.cuda_runtime_version, runtime),
        "cudnn": _ask(cuda_driver.cudnn_version, cudnn),
    }


def needed_majors(built_with: str) -> tuple[str, str]:
    """Return the major versions of the CUDA runtime and the cuDNN that onnxruntime-gpu needs.

    ``built_with`` is the CUDA version of its build, if it is known.
    """
    try:
        requirements = "\n".join(importlib.metadata.requires(PROVIDERS["cuda"].package) or [])
    except importlib.metadata.PackageNotFoundError:
        requirements = ""
    runtime = built_with or _match(r"^nvidia-cuda-runtime\S*?[~=]=(\d+)", requirements) or ""
    return runtime.split(".")[0], _match(r"^nvidia-cudnn-cu\d+[~=]=(\d+)", requirements) or "9"


def _ask(question: Callable[..., str], *words: str) -> str:
    try:
        return question(*words)
    except OSError:
        return ""


def _match(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1) if found else None
