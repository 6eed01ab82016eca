"""Describe this machine, without private data."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence

from benchmarks.contenders.environment import PACKAGES
from benchmarks.results.schema import BenchmarkMachine, Gpu
from runtime.doctor import examine
from runtime.doctor.collect import run_probe
from runtime.machine.cpu import cpu_flags, cpu_model
from runtime.machine.cuda_driver import gpu_names, kernel_driver_version, memory_bytes
from runtime.machine.limits import examine_memory, examine_threads
from runtime.machine.packages import package_version
from runtime.session.providers import installed_packages
from runtime.version import __version__


def this_machine(name: str | None, threads: int) -> BenchmarkMachine:
    """Describe this machine. The description has no name of host or user, and no path.

    ``name`` is for reports and price files; by default it consists of the CPU and the GPUs.
    """
    budget, memory = examine_threads(), examine_memory()
    cpu, gpus = cpu_model() or platform.machine(), find_gpus()
    cuda, cudnn = cuda_versions() if gpus else (None, None)
    return BenchmarkMachine(
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


def find_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that this process may use, in the order of CUDA's device numbers."""
    names = gpu_names()
    driver = kernel_driver_version() if names else ""
    return tuple(Gpu(name=name, memory_bytes=memory_bytes(number), driver=driver) for number, name in enumerate(names))


def _default_name(cpu: str, gpus: Sequence[Gpu]) -> str:
    """Return the CPU and the GPUs, with counts: ``A CPU + 2 x A GPU``."""
    counts = Counter(gpu.name for gpu in gpus)
    return " + ".join([cpu, *(f"{count} x {name}" if count > 1 else name for name, count in counts.items())])


def _packages() -> dict[str, str]:
    """Return the versions of the installed packages."""
    others = {name: version for name in PACKAGES if (version := package_version(name))}
    return {"embedding-backbones": __version__} | installed_packages() | others


def cuda_versions() -> tuple[str | None, str | None]:
    """Return the CUDA version that onnxruntime was built with, and the version of the cuDNN library found."""
    cuda = examine().cuda  # None if the installed onnxruntime is built without CUDA
    return run_probe("survey").facts.get("cuda_version"), cuda.cudnn.found if cuda else None
