"""The doctor's findings, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from runtime.machine.limits import Memory, ThreadBudget


@dataclass(frozen=True, kw_only=True)
class PythonHost:
    """The interpreter and its platform."""

    version: str  # version of this project
    folder: str  # folder from which ``runtime`` is imported
    python: str
    executable: str
    platform: str  # system, kernel and C library


@dataclass(frozen=True, kw_only=True)
class OptionalPackage:
    """A package that only some items or commands need."""

    package: str
    extra: str  # the extra of this project that installs it
    version: str | None  # ``None`` if the package is not installed


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A problem."""

    cause: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class ProviderState:
    """The state of an execution provider."""

    name: str
    package: str
    # ``usable``: it computed the right numbers. ``absent``: the installed onnxruntime does not contain it.
    status: Literal["usable", "unusable", "absent"]
    finding: Finding | None = None  # why it is unusable


@dataclass(frozen=True, kw_only=True)
class CudaLibrary:
    """A library of CUDA."""

    needed: str | None  # the major version that the installed onnxruntime needs; ``None`` if it is unknown
    found: str | None  # the version that the library reports; ``None`` if it does not load
    error: str | None  # why it does not load or does not start


@dataclass(frozen=True, kw_only=True)
class CudaState:
    """The state of CUDA on this machine."""

    devices: tuple[str, ...]
    driver: CudaLibrary  # NVIDIA's driver; its versions are CUDA versions
    runtime: CudaLibrary
    cudnn: CudaLibrary
    wheels: Mapping[str, str]  # versions of the PyPI packages of CUDA's runtime and cuDNN


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """All findings of the doctor."""

    host: PythonHost
    packages: Mapping[str, str | None]  # versions of the required packages; ``None`` for a missing one
    extras: tuple[OptionalPackage, ...]
    onnxruntimes: Mapping[str, str]  # versions of the installed onnxruntime packages; two or more are a conflict
    files_of: str | None  # the onnxruntime package whose files are on disk; ``None`` if the files are incomplete
    finding: Finding | None  # why onnxruntime itself is unusable: packages conflict, none is installed, or it is broken
    providers: tuple[ProviderState, ...]  # in the order of ``auto``; empty if onnxruntime is unusable
    cuda: CudaState | None  # ``None`` unless the GPU package is installed
    threads: ThreadBudget
    memory: Memory
    telemetry: bool  # whether onnxruntime may send telemetry

    @property
    def healthy(self) -> bool:
        """Whether at least one provider is usable."""
        return any(state.status == "usable" for state in self.providers)
