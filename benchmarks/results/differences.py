"""Find the differences between two machines: those of their hardware, and those of their software."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmarks.results.schema import BenchmarkMachine, Results

_SOFTWARE = ("system", "python", "packages", "cuda", "cudnn", "drivers", "environments")


def find_differences(old: Results, new: Results) -> tuple[dict[str, str], dict[str, str]]:
    """Return the differences in hardware and those in software, by fact: ``{"cores": "cores 2 -> 4"}``.

    The load of the machine is left out. Memory is compared in GiB, because each kernel keeps a few MB of it.
    """
    before, after = _facts(old), _facts(new)
    found = {name: _describe(name, before[name], after[name]) for name in before if before[name] != after[name]}
    software = {name: found.pop(name) for name in _SOFTWARE if name in found}
    return found, software


def _facts(results: Results) -> dict[str, Any]:
    machine, environments = results.machine, results.environments.items()
    facts = {field.name: getattr(machine, field.name) for field in dataclasses.fields(BenchmarkMachine)}
    del facts["load_average"], facts["memory_bytes"]
    pythons = {f"Python of {name}": environment.python for name, environment in environments}
    return facts | {
        "cpu_flags": frozenset(machine.cpu_flags),
        "memory": _gibibytes(machine.memory_bytes),
        "gpus": ", ".join(f"{gpu.name} with {_gibibytes(gpu.memory_bytes)}" for gpu in machine.gpus) or "none",
        "drivers": ", ".join(dict.fromkeys(gpu.driver for gpu in machine.gpus)) or "none",
        "environments": pythons
        | {
            f"{package} of {name}": version
            for name, environment in environments
            for package, version in environment.packages.items()
        },
    }


def _gibibytes(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.0f} GiB"


def _describe(name: str, old: Any, new: Any) -> str:
    if isinstance(old, Mapping):
        names = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        return ", ".join(f"{key} {old.get(key, 'none')} -> {new.get(key, 'none')}" for key in names)
    if isinstance(old, frozenset):
        words = [*(f"-{flag}" for flag in sorted(old - new)), *(f"+{flag}" for flag in sorted(new - old))]
        return f"{name} {' '.join(words)}"
    return f"{name} {old} -> {new}"
