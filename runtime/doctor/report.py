"""The doctor's findings, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from runtime.machine.limits import Memory, ThreadBudget


@dataclass(frozen=True, kw_only=True)
class PythonHost:
    """The interpreter and its platform.

    Attributes:
        version: Version of this project.
        folder: Folder from which ``runtime`` is imported.
        python: Version of Python.
        executable: Path of the interpreter.
        platform: System, kernel and C library.
    """

    version: str
    folder: str
    python: str
    executable: str
    platform: str


@dataclass(frozen=True, kw_only=True)
class OptionalPackage:
    """A package that only some items or commands need.

    Attributes:
        package: Its name on PyPI.
        extra: The extra of this project that installs it.
        version: Its version; ``None`` if it is not installed.
    """

    package: str
    extra: str
    version: str | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A problem.

    Attributes:
        cause: The problem.
        remedy: A way to fix it.
    """

    cause: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class ProviderState:
    """The state of an execution provider.

    Attributes:
        name: The provider.
        package: PyPI package that contains it.
        status: ``usable`` if it ran a graph and computed the right numbers, ``unusable`` if it did not, ``absent`` if
            the installed onnxruntime does not contain it.
        finding: Why it is unusable.
    """

    name: str
    package: str
    status: Literal["usable", "unusable", "absent"]
    finding: Finding | None = None


@dataclass(frozen=True, kw_only=True)
class CudaLibrary:
    """A library of CUDA.

    Attributes:
        needed: The major version that the installed onnxruntime needs; ``None`` if it is unknown.
        found: The version that the library reports; ``None`` if it does not load.
        error: Why it does not load or does not start.
    """

    needed: str | None
    found: str | None
    error: str | None


@dataclass(frozen=True, kw_only=True)
class CudaState:
    """The state of CUDA on this machine.

    Attributes:
        devices: Names of the GPUs.
        driver: NVIDIA's driver. Its versions are CUDA versions.
        runtime: The CUDA runtime.
        cudnn: cuDNN.
        wheels: Versions of the PyPI packages of CUDA's runtime and cuDNN.
    """

    devices: tuple[str, ...]
    driver: CudaLibrary
    runtime: CudaLibrary
    cudnn: CudaLibrary
    wheels: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """All findings of the doctor.

    Attributes:
        host: The interpreter and its platform.
        packages: Versions of the required packages; ``None`` for a missing one.
        extras: The optional packages.
        onnxruntimes: Versions of the installed onnxruntime packages; two or more are a conflict.
        files_of: The onnxruntime package whose files are on disk; ``None`` if the files are incomplete.
        finding: Why onnxruntime itself is unusable: packages conflict, none is installed, or it is broken.
        providers: All providers, in the order of ``auto``; empty if onnxruntime is unusable.
        cuda: The state of CUDA; ``None`` unless the GPU package is installed.
        threads: The thread budget.
        memory: The memory.
    """

    host: PythonHost
    packages: Mapping[str, str | None]
    extras: tuple[OptionalPackage, ...]
    onnxruntimes: Mapping[str, str]
    files_of: str | None
    finding: Finding | None
    providers: tuple[ProviderState, ...]
    cuda: CudaState | None
    threads: ThreadBudget
    memory: Memory

    @property
    def healthy(self) -> bool:
        """Whether at least one provider is usable."""
        return any(state.status == "usable" for state in self.providers)
