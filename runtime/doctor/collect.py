"""Examine this machine: its packages, execution providers, CUDA, threads and memory."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.doctor.report import (
    CudaLibrary,
    CudaState,
    DoctorReport,
    Finding,
    OptionalPackage,
    ProviderState,
    PythonHost,
)
from runtime.machine import telemetry
from runtime.machine.child_process import Answer, listen
from runtime.machine.limits import examine_memory, examine_threads
from runtime.machine.packages import package_version
from runtime.session.gpu_software import needed_majors
from runtime.session.providers import PROVIDERS, ExecutionProvider, installed_packages
from runtime.version import __version__

_TIMEOUT_S = 60.0
_REQUIRED = ("numpy", "pillow", "tokenizers", "tqdm")
# Packages that the runtime imports when it needs them, with the extra that installs each.
_EXTRAS = {
    "mapbox_earcut": "mesh",
    "pillow-heif": "heic",
    "ftfy": "openclip",
    "pyarrow": "parquet",
    "ray": "ray",
    "starlette": "serve",
    "uvicorn": "serve",
    "uvloop": "serve",
    "httptools": "serve",
    "orjson": "serve",
    "prometheus_client": "serve",
    "python-multipart": "serve",
    "model-signing": "sign",
    "pyopenssl": "sign",
}


def examine() -> DoctorReport:
    """Return the report on this machine.

    Native libraries are loaded in child processes, so that a crash is a finding and does not end the doctor.
    """
    onnxruntimes = installed_packages()
    survey = run_probe("survey")
    return DoctorReport(
        host=PythonHost(
            version=__version__,
            folder=str(Path(__file__).parents[1]),
            python=platform.python_version(),
            executable=sys.executable,
            platform=platform.platform(),
        ),
        packages={name: package_version(name) for name in _REQUIRED},
        extras=tuple(
            OptionalPackage(package=name, extra=extra, version=package_version(name)) for name, extra in _EXTRAS.items()
        ),
        onnxruntimes=onnxruntimes,
        files_of=_files_of(),
        finding=_find_in_survey(survey, onnxruntimes),
        providers=tuple(_examine_providers(survey, onnxruntimes)),
        cuda=_examine_cuda(survey) if PROVIDERS["cuda"].package in onnxruntimes else None,
        threads=examine_threads(),
        memory=examine_memory(),
        telemetry=not telemetry.is_off(),
    )


def _files_of() -> str | None:
    """Return the name of the package whose build of onnxruntime is on disk, without importing it."""
    spec = importlib.util.find_spec("onnxruntime")
    for folder in (spec and spec.submodule_search_locations) or ():
        with contextlib.suppress(OSError):
            text = (Path(folder) / "capi/build_and_package_info.py").read_text("utf-8")
            found = re.search(r"^package_name = '(.+)'", text, re.MULTILINE)
            return found.group(1) if found else None
    return None


def _find_in_survey(survey: Answer, onnxruntimes: Mapping[str, str]) -> Finding | None:
    if survey.failure:
        return Finding(cause=f"importing onnxruntime {survey.failure}", remedy=_reinstall(onnxruntimes))
    return split_obstacle(survey.facts["obstacle"]) if "obstacle" in survey.facts else None


def split_obstacle(obstacle: str) -> Finding:
    """Split a message of the form ``CAUSE; REMEDY``, such as that of an error of this project."""
    cause, _, remedy = obstacle.rpartition("; ")
    return Finding(cause=cause or obstacle, remedy=remedy)


def _examine_providers(survey: Answer, onnxruntimes: Mapping[str, str]) -> Iterator[ProviderState]:
    if "providers" not in survey.facts:
        return
    for provider in PROVIDERS.values():
        state = ProviderState(name=provider.name, package=provider.package, status="absent")
        if provider.name in survey.facts["providers"]:
            finding = _find_in_probe(provider, run_probe("probe", provider.name), onnxruntimes)
            state = replace(state, status="unusable" if finding else "usable", finding=finding)
        yield state


def _find_in_probe(provider: ExecutionProvider, answer: Answer, onnxruntimes: Mapping[str, str]) -> Finding | None:
    if "obstacle" in answer.facts:
        return split_obstacle(answer.facts["obstacle"])
    failure = answer.failure or answer.facts.get("failure")
    if not failure:
        return None
    log = f" (its log ends with: {answer.log})" if answer.log and answer.log not in failure else ""
    remedy = f"name another provider, or {_reinstall(onnxruntimes)}"
    return Finding(cause=f"the provider {provider.name} {failure}{log}", remedy=remedy)


def _reinstall(onnxruntimes: Mapping[str, str]) -> str:
    return f"reinstall onnxruntime: `pip install --force-reinstall {' '.join(onnxruntimes)}`"


def _examine_cuda(survey: Answer) -> CudaState:
    runtime, cudnn = needed_majors(str(survey.facts.get("cuda_version") or ""))
    answer = run_probe("cuda", runtime, cudnn)
    failed = {"error": f"its check {answer.failure}"}
    facts = answer.facts or dict.fromkeys(("devices", "driver", "runtime", "cudnn"), failed)
    devices = facts["devices"]
    return CudaState(
        devices=tuple(devices.get("found", ())),
        # A driver may report its version but fail to start.
        driver=_library(runtime, {"error": devices.get("error")} | facts["driver"]),
        runtime=_library(runtime, facts["runtime"]),
        cudnn=_library(cudnn, facts["cudnn"]),
        wheels=_wheels(),
    )


def _library(needed: str, facts: Mapping[str, Any]) -> CudaLibrary:
    return CudaLibrary(needed=needed or None, found=facts.get("found"), error=facts.get("error"))


def _wheels() -> dict[str, str]:
    """Return NVIDIA's packages of CUDA's runtime and cuDNN, whose names may end with a major version."""
    names = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    return {name: names[name] for name in sorted(names) if re.match(r"nvidia[-_](cuda[-_]runtime|cudnn)", name)}


def run_probe(*question: str) -> Answer:
    """Run ``python -m runtime.doctor.probe QUESTION`` and return its answer."""
    return listen([sys.executable, "-m", "runtime.doctor.probe", *question], timeout_s=_TIMEOUT_S)
