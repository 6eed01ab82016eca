"""List the facts about a machine and its software that decide how fast, and how exactly, a session computes."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass

from runtime.machine import cpu
from runtime.session.gpu_software import gpu_software
from runtime.session.providers import installed_packages


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """The facts about a machine that a stored result depends on.

    ``packages`` are the versions of the installed onnxruntime distributions and, with ``gpus``, of their driver, CUDA
    and cuDNN.
    """

    packages: dict[str, str]
    architecture: str
    cpu: str
    cpu_flags: tuple[str, ...]
    gpus: tuple[str, ...]


def machine_facts(gpus: Iterable[str]) -> MachineFacts:
    """Return the facts about this machine. ``gpus`` are the names of those GPUs that count."""
    names = tuple(gpus)
    return MachineFacts(
        packages=installed_packages() | (gpu_software() if names else {}),
        architecture=platform.machine(),
        cpu=cpu.cpu_model(),
        cpu_flags=tuple(sorted(cpu.cpu_flags())),
        gpus=names,
    )
