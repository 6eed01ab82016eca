"""The machine that times are taken on, as far as anyone who reads a report may know of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections import Counter
from collections.abc import Sequence

from benchmarks.measure.gpus import find_gpus
from benchmarks.results.schema import Gpu, Machine
from runtime.doctor import examine
from runtime.doctor.collect import run_probe
from runtime.machine.cpu import cpu_flags, cpu_model
from runtime.machine.limits import examine_memory, examine_threads
from runtime.session.providers import installed_packages
from runtime.version import __version__

_PACKAGES = (
    "numpy",
    "pillow",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
    "open_clip_torch",
    "sentence-transformers",
    "fastembed",
    "optimum",
    "openvino",
)


def this_machine(name: str | None, threads: int) -> Machine:
    """Returns what is known of this machine: no name of its host or its user, and no path.

    Args:
        name: What its owner calls it; by default its CPU and its GPUs.
        threads: Threads that every contender is given.
    """
    budget, memory = examine_threads(), examine_memory()
    cpu, gpus = cpu_model() or platform.machine(), find_gpus()
    cuda, cudnn = _cuda_versions() if gpus else (None, None)
    return Machine(
        name=name or _default_name(cpu, gpus),
        cpu=cpu,
        architecture=platform.machine(),
        cpu_flags=tuple(sorted(cpu_flags())),
        cores=budget.cores,
        cores_allowed=budget.affinity,
        cpu_quota=budget.quota,
        threads=threads,
        memory_bytes=memory.total or 0,
        memory_limit_bytes=memory.limit,
        gpus=gpus,
        cuda=cuda,
        cudnn=cudnn,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=_packages(),
        load_average=os.getloadavg() if hasattr(os, "getloadavg") else (),
    )


def _default_name(cpu: str, gpus: Sequence[Gpu]) -> str:
    """Returns the CPU and the GPUs, equal ones counted: ``A CPU + 2 x A GPU``."""
    counts = Counter(gpu.name for gpu in gpus)
    return " + ".join([cpu, *(f"{count} x {name}" if count > 1 else name for name, count in counts.items())])


def _packages() -> dict[str, str]:
    """Returns the versions of those that are installed."""
    versions = {"embedding-backbones": __version__} | installed_packages()
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _cuda_versions() -> tuple[str | None, str | None]:
    """Returns the CUDA that onnxruntime was built with, and the cuDNN that was found, each where there is one."""
    cuda = examine().cuda  # None where the installed onnxruntime is not the one for GPUs
    return run_probe("survey").facts.get("cuda_version"), cuda.cudnn.found if cuda else None
