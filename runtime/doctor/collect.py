"""Looks at this machine: what is installed, what runs, what bounds it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runtime.doctor.report import Cuda, Extra, Finding, Host, Library, ProviderState, Report
from runtime.machine.child_process import Answer, listen
from runtime.machine.limits import examine_memory, examine_threads
from runtime.session.providers import PROVIDERS, ExecutionProvider, installed_packages
from runtime.version import __version__

_TIMEOUT_S = 60.0
_REQUIRED = ("numpy", "pillow", "tokenizers", "tqdm")
_EXTRAS = {"trimesh": "mesh", "ftfy": "openclip", "pyarrow": "parquet", "ray": "ray"}


def examine() -> Report:
    """Returns the report on this machine.

    Everything that loads a native library happens in other processes, so that its crash is a finding.
    """
    onnxruntimes = installed_packages()
    survey = ask("survey")
    return Report(
        host=_host(),
        packages={name: _version(name) for name in _REQUIRED},
        extras=tuple(Extra(package=name, extra=extra, version=_version(name)) for name, extra in _EXTRAS.items()),
        onnxruntimes=onnxruntimes,
        files_of=_files_of(),
        finding=_find_in_survey(survey, onnxruntimes),
        providers=tuple(_examine_providers(survey, onnxruntimes)),
        cuda=_examine_cuda(survey) if PROVIDERS["cuda"].package in onnxruntimes else None,
        threads=examine_threads(),
        memory=examine_memory(),
    )


def _host() -> Host:
    return Host(
        version=__version__,
        folder=str(Path(__file__).parents[1]),
        python=platform.python_version(),
        executable=sys.executable,
        platform=platform.platform(),
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _files_of() -> str | None:
    """Reads what onnxruntime's build wrote of itself, without running any of it."""
    spec = importlib.util.find_spec("onnxruntime")
    for folder in (spec and spec.submodule_search_locations) or ():
        with contextlib.suppress(OSError):
            text = (Path(folder) / "capi/build_and_package_info.py").read_text("utf-8")
            return _match(r"^package_name = '(.+)'", text)
    return None


def _find_in_survey(survey: Answer, onnxruntimes: Mapping[str, str]) -> Finding | None:
    if survey.failure:
        return Finding(cause=f"importing onnxruntime {survey.failure}", remedy=_reinstall(onnxruntimes))
    return _split(survey.facts["obstacle"]) if "obstacle" in survey.facts else None


def _split(obstacle: str) -> Finding:
    """Takes apart one of the runtime's messages: what is wrong; what to do."""
    cause, _, remedy = obstacle.rpartition("; ")
    return Finding(cause=cause or obstacle, remedy=remedy)


def _examine_providers(survey: Answer, onnxruntimes: Mapping[str, str]) -> Iterator[ProviderState]:
    if "providers" not in survey.facts:
        return
    for provider in PROVIDERS.values():
        if provider.name in survey.facts["providers"]:
            finding = _find_in_probe(provider, ask("probe", provider.name), onnxruntimes)
            yield ProviderState(
                name=provider.name,
                package=provider.package,
                status="unusable" if finding else "usable",
                finding=finding,
            )
        else:
            yield ProviderState(name=provider.name, package=provider.package, status="absent")


def _find_in_probe(provider: ExecutionProvider, answer: Answer, onnxruntimes: Mapping[str, str]) -> Finding | None:
    if "obstacle" in answer.facts:
        return _split(answer.facts["obstacle"])
    failure = answer.failure or answer.facts.get("failure")
    if not failure:
        return None
    log = f" (its log ends with: {answer.log})" if answer.log and answer.log not in failure else ""
    remedy = f"name another provider, or {_reinstall(onnxruntimes)}"
    return Finding(cause=f"the provider {provider.name} {failure}{log}", remedy=remedy)


def _reinstall(onnxruntimes: Mapping[str, str]) -> str:
    return f"reinstall onnxruntime: `pip install --force-reinstall {' '.join(onnxruntimes)}`"


def _examine_cuda(survey: Answer) -> Cuda:
    requirements = "\n".join(importlib.metadata.requires(PROVIDERS["cuda"].package) or [])
    declared = _match(r"^nvidia-cuda-runtime\S*?[~=]=(\d+)", requirements)
    runtime = str(survey.facts.get("cuda_version") or declared or "").split(".")[0]
    cudnn = _match(r"^nvidia-cudnn-cu\d+[~=]=(\d+)", requirements) or "9"
    answer = ask("cuda", runtime, cudnn)
    failed = {"error": f"looking for it {answer.failure}"} if answer.failure else {}
    return Cuda(
        devices=tuple(answer.facts.get("devices", {}).get("found", ())),
        driver=_driver(runtime, answer.facts or {"driver": failed, "devices": failed}),
        runtime=_library(runtime, answer.facts.get("runtime", failed)),
        cudnn=_library(cudnn, answer.facts.get("cudnn", failed)),
        wheels=_wheels(),
    )


def _driver(needed: str, facts: Mapping[str, Any]) -> Library:
    """The driver may tell its version and still start on no device."""
    driver, devices = facts["driver"], facts["devices"]
    return Library(needed=needed or None, found=driver.get("found"), error=driver.get("error") or devices.get("error"))


def _library(needed: str, facts: Mapping[str, Any]) -> Library:
    return Library(needed=needed or None, found=facts.get("found"), error=facts.get("error"))


def _match(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1) if found else None


def _wheels() -> dict[str, str]:
    """Returns NVIDIA's distributions of CUDA's runtime and cuDNN; their names carry the major version, or do not."""
    names = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    return {name: names[name] for name in sorted(names) if re.match(r"nvidia[-_](cuda[-_]runtime|cudnn)", name)}


def ask(*question: str) -> Answer:
    """Returns what ``python -m runtime.doctor.probe QUESTION`` answers, or how it failed to."""
    return listen([sys.executable, "-m", "runtime.doctor.probe", *question], timeout_s=_TIMEOUT_S)
