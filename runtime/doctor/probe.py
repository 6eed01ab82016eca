"""Load onnxruntime, a provider or CUDA in a process that may crash, and print the findings as a line of JSON."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.errors import EmbeddingBackbonesError, one_line
from runtime.machine import cuda_driver
from runtime.session.options import session_options
from runtime.session.provider_options import OPTIONS
from runtime.session.providers import (
    ExecutionProvider,
    available_providers,
    find_provider,
    find_provider_obstacle,
    import_onnxruntime,
    preload_cuda_libraries,
)

if TYPE_CHECKING:
    import onnxruntime

PROBE = Path(__file__).with_name("probe.onnx")
# Small whole numbers are exact in every precision that a provider may compute in.
PROBE_INPUT = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
PROBE_OUTPUT = np.array([[[[44, 64], [92, 136]]]], dtype=np.float32)


def survey() -> dict[str, Any]:
    """Return the providers and the CUDA version that the installed onnxruntime was built with."""
    providers = [provider.name for provider in available_providers()]
    return {"providers": providers, "cuda_version": getattr(import_onnxruntime(), "cuda_version", "") or None}


def probe(name: str) -> dict[str, Any]:
    """Run the probe graph on a provider. Return ``{}``, or the ``obstacle`` or ``failure``."""
    provider = find_provider(name)
    obstacle = find_provider_obstacle(provider)
    if obstacle:
        return {"obstacle": obstacle}
    try:
        session = open_probe(provider, cpu_fallback=False)
        (output,) = session.run(None, {"pixels": PROBE_INPUT})
    except Exception as exc:  # noqa: BLE001  onnxruntime's exceptions have no common base class
        return {"failure": f"failed: {_describe_failure(provider, exc)}"}
    if not np.allclose(output, PROBE_OUTPUT, rtol=1e-3):
        return {"failure": f"computed {output.ravel().tolist()}, where {PROBE_OUTPUT.ravel().tolist()} is right"}
    return {}


def open_probe(provider: ExecutionProvider, *, cpu_fallback: bool) -> onnxruntime.InferenceSession:
    """Open the probe graph. ``cpu_fallback`` lets nodes that the provider does not support run on the CPU."""
    forbidden = not cpu_fallback and provider.name != "cpu"
    options = session_options(threads=1, config={"session.disable_cpu_ep_fallback": "1"} if forbidden else None)
    chosen = [(provider.onnxruntime_name, OPTIONS[provider.name]().settings(1))]
    return import_onnxruntime().InferenceSession(str(PROBE), options, providers=chosen, enable_fallback=False)


def _describe_failure(provider: ExecutionProvider, exc: Exception) -> str:
    """Tell a provider that did not start, whose cause is only in onnxruntime's log, from one that refuses a node."""
    with contextlib.suppress(Exception):
        if provider.onnxruntime_name not in open_probe(provider, cpu_fallback=True).get_providers():
            return "onnxruntime did not start it and continued with the CPU"
    message = one_line(exc)
    cuda_failure = re.search(r"\w+ failure \d+: .*?(?= ; )", message)  # between C++ signatures
    return cuda_failure.group() if cuda_failure else message


def examine_cuda(runtime_major: str, cudnn_major: str) -> dict[str, Any]:
    """Return the GPUs and the versions of the driver, the CUDA runtime and cuDNN, each ``found`` or an ``error``."""
    with contextlib.suppress(EmbeddingBackbonesError, AttributeError):
        preload_cuda_libraries()
    return {
        "devices": _ask(cuda_driver.device_names),
        "driver": _ask(cuda_driver.cuda_driver_version),
        "runtime": _ask(cuda_driver.cuda_runtime_version, runtime_major),
        "cudnn": _ask(cuda_driver.cudnn_version, cudnn_major),
    }


def _ask(question: Callable[..., Any], *words: str) -> dict[str, Any]:
    try:
        return {"found": question(*words)}
    except OSError as exc:
        return {"error": str(exc)}


def main(question: str, *words: str) -> None:
    """Print the answer to one question, or the error that this project raised, as a line of JSON."""
    questions: dict[str, Callable[..., dict[str, Any]]] = {"survey": survey, "probe": probe, "cuda": examine_cuda}
    try:
        answer = questions[question](*words)
    except EmbeddingBackbonesError as exc:
        answer = {"obstacle": str(exc)}
    print(f"\n{json.dumps(answer)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
