"""Ask a Python interpreter which packages its environment has, without importing them."""

from __future__ import annotations

import functools

from benchmarks.results.schema import PythonEnvironment
from runtime.artifact.json_schema import decode
from runtime.errors import UsageError
from runtime.machine.child_process import listen
from runtime.session.providers import PROVIDERS

PACKAGES = (
    *("numpy", "pillow", "tokenizers", "torch", "torchvision", "transformers", "open_clip_torch"),
    *("sentence-transformers", "fastembed", "optimum", "optimum-onnx", "openvino"),
)
_TIMEOUT_S = 60
_PROGRAM = """
import importlib.metadata, json, platform, sys

def versions(names):
    for name in names:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass

print(json.dumps({"python": platform.python_version(), "packages": dict(versions(sys.argv[1:]))}))
"""


@functools.cache
def survey(python: str) -> PythonEnvironment:
    """Return the Python and the versions of the packages of an interpreter: ``PACKAGES``, and those of onnxruntime.

    Its working directory is no part of its environment.

    Raises:
        UsageError: The interpreter does not start.
    """
    names = dict.fromkeys([*(provider.package for provider in PROVIDERS.values()), *PACKAGES])
    try:
        answer = listen([python, "-P", "-c", _PROGRAM, *names], timeout_s=_TIMEOUT_S)
        reason = answer.failure
    except OSError as exc:
        reason = exc.strerror
    if reason:
        raise UsageError(f"cannot start {python} ({reason}); name the Python interpreter of an environment")
    return decode(PythonEnvironment, answer.facts, f"the environment of {python}")
