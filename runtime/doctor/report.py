"""What the doctor finds, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from runtime.machine.limits import Memory, ThreadBudget


@dataclass(frozen=True, kw_only=True)
class Host:
    """The interpreter and what it runs on.

    Attributes:
        version: This project's version.
        folder: Where the runtime is imported from.
        python: Version of Python.
        executable: The interpreter.
        platform: System, kernel and C library.
    """

    version: str
    folder: str
    python: str
    executable: str
    platform: str


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A package that some items or commands need.

    Attributes:
        package: Its distribution.
        extra: Our extra that brings it.
        version: Its version, ``None`` where it is not installed.
    """

    package: str
    extra: str
    version: str | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong.

    Attributes:
        cause: What is wrong.
        remedy: What to do about it.
    """

    cause: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class ProviderState:
    """What became of one execution provider.

    Attributes:
        name: Our name of it.
        package: The distribution that brings it.
        status: ``usable`` where it ran a graph and its numbers were right, ``unusable`` where it did not, ``absent``
            where the installed onnxruntime was built without it.
        finding: Why it is unusable.
    """

    name: str
    package: str
    status: Literal["usable", "unusable", "absent"]
    finding: Finding | None = None


@dataclass(frozen=True, kw_only=True)
class Library:
    """A part of CUDA, as it is needed and as it was found.

    Attributes:
        needed: The major version that the installed onnxruntime was built for, ``None`` where it does not say.
        found: The version that the library itself tells, ``None`` where it does not load.
        error: Why it does not load, or does not start.
    """

    needed: str | None
    found: str | None
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Cuda:
    """CUDA, looked at only where the GPU package is installed.

    Attributes:
        devices: Names of the GPUs that the driver offers.
        driver: NVIDIA's driver; its versions are those of CUDA.
        runtime: The CUDA runtime.
        cudnn: cuDNN.
        wheels: NVIDIA's own distributions of the last two, with their versions.
    """

    devices: tuple[str, ...]
    driver: Library
    runtime: Library
    cudnn: Library
    wheels: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that the doctor finds.

    Attributes:
        host: The interpreter and what it runs on.
        packages: The required distributions, ``None`` for the version of a missing one.
        extras: The optional ones.
        onnxruntimes: The onnxruntime distributions that are installed; more than one is a conflict.
        files_of: The distribution whose files lie in the folder that they all write, ``None`` where it is incomplete.
        finding: Why onnxruntime itself cannot be used: a conflict, or none installed, or a broken one.
        providers: Every provider of ours, in the order of "auto"; empty where onnxruntime cannot be used.
        cuda: CUDA, where the GPU package is installed.
        threads: The thread budget.
        memory: The memory.
    """

    host: Host
    packages: Mapping[str, str | None]
    extras: tuple[Extra, ...]
    onnxruntimes: Mapping[str, str]
    files_of: str | None
    finding: Finding | None
    providers: tuple[ProviderState, ...]
    cuda: Cuda | None
    threads: ThreadBudget
    memory: Memory

    @property
    def healthy(self) -> bool:
        """Whether one provider at least is usable; where packages conflict there is none."""
        return any(state.status == "usable" for state in self.providers)
