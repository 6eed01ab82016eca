"""What was found fastest, kept for the next start: a file for an artifact, these packages and this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime.artifact.json_schema import decode
from runtime.artifact.manifest import Manifest, TowerName
from runtime.artifact.variants import VariantName
from runtime.errors import ManifestError, OutputError, UsageError
from runtime.machine import cpu
from runtime.machine.cache_folder import CACHE_VARIABLE, default_cache, usable_cache
from runtime.machine.cuda_driver import gpu_names
from runtime.machine.threads import available_threads
from runtime.session.providers import installed_packages
from runtime.session.session import SessionOptions

LARGEST_BATCH = 4096
_FOLDER = "tuned"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What decides which case is the fastest; where any of it differs, a tuning says nothing.

    Attributes:
        packages: The onnxruntime distributions and their versions.
        architecture: Of the CPU, such as ``x86_64``.
        cpu: Its model.
        cpu_flags: What it can do.
        threads: What affinity mask and container quota allow.
        gpus: The GPUs that the installed onnxruntime could use.
    """

    packages: dict[str, str]
    architecture: str
    cpu: str
    cpu_flags: tuple[str, ...]
    threads: int
    gpus: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The fastest case, and what it was found for.

    Attributes:
        schema_version: Of this record.
        date: When it was found, as ``2026-01-31``.
        artifact: The artifact's seal.
        tower: The tower.
        machine: The machine.
        provider: Execution provider of the case.
        variant: Its graph.
        threads: Its threads.
        batch_size: Items of a batch.
        p50_ms: Median time of a batch.
        p95_ms: Its 95th percentile.
        items_per_s: Items a second.
        min_cosine: Smallest cosine similarity to torch's golden vectors.
        max_latency_ms: The bound that ``p95_ms`` kept; ``None`` for no bound.
    """

    schema_version: Literal[1] = 1
    date: str
    artifact: str
    tower: TowerName
    machine: Machine
    provider: Literal["cpu", "cuda", "openvino", "tensorrt"]
    variant: VariantName
    threads: int
    batch_size: int
    p50_ms: float
    p95_ms: float
    items_per_s: float
    min_cosine: float
    max_latency_ms: float | None

    def __post_init__(self) -> None:
        """Refuses numbers that were not measured."""
        if not (1 <= self.threads <= self.machine.threads and 1 <= self.batch_size <= LARGEST_BATCH):
            raise UsageError(f"{self.threads} threads and batches of {self.batch_size} are beyond this machine")

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.date}: {self.provider}, {self.variant}, {threads}, batches of {self.batch_size}"

    def session_options(self) -> SessionOptions:
        """Returns how to load by it."""
        reason = f"tuned on this machine on {self}"
        return SessionOptions(
            provider=self.provider,
            variant=self.variant,
            threads=self.threads,
            batch_size=self.batch_size,
            reason=reason,
            variant_reason=reason,
        )


def this_machine() -> Machine:
    """Returns what is to be known of this machine. Only a package for GPUs has their driver asked."""
    packages = installed_packages()
    return Machine(
        packages=packages,
        architecture=platform.machine(),
        cpu=cpu.cpu_model(),
        cpu_flags=tuple(sorted(cpu.cpu_flags())),
        threads=available_threads(),
        gpus=gpu_names() if "onnxruntime-gpu" in packages else (),
    )


def recall(manifest: Manifest, tower: TowerName) -> Tuning | None:
    """Returns what was found for a tower on this machine; ``None`` if nothing was, or not in full."""
    machine = this_machine()
    try:
        text = _place(default_cache(_FOLDER), manifest, tower, machine).read_text("utf-8")
        found = decode(Tuning, json.loads(text), "tuning")
    except (OSError, ValueError, RuntimeError, ManifestError):  # a recursion too deep and a missing home are the third
        return None
    known = (found.artifact, found.tower, found.machine)
    return found if known == (manifest.sha256, tower, machine) else None


def check_memory() -> None:
    """Makes sure that something can be remembered.

    Raises:
        OutputError: The folder cannot be written.
    """
    if usable_cache(_FOLDER, None) is None:
        raise OutputError(f"this user's cache folder cannot be written; name another folder by {CACHE_VARIABLE}")


def remember(manifest: Manifest, tuning: Tuning) -> Path:
    """Keeps ``tuning`` for the next start, whole or not at all, and returns its file.

    Raises:
        OutputError: It cannot be written.
    """
    check_memory()
    place = _place(default_cache(_FOLDER), manifest, tuning.tower, tuning.machine)
    partial = place.with_suffix(f".{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(dataclasses.asdict(tuning), indent=2), "utf-8")
        partial.replace(place)
    except OSError as exc:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{place} cannot be written ({exc.strerror}); free some space, or mend its rights") from exc
    return place


def forget(manifest: Manifest, tower: TowerName) -> bool:
    """Removes what was found for a tower on this machine, and tells whether there was anything.

    Raises:
        OutputError: It cannot be removed.
    """
    place = _place(default_cache(_FOLDER), manifest, tower, this_machine())
    try:
        place.unlink()
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise OutputError(f"{place} cannot be removed ({exc.strerror}); mend its rights") from exc
    return True


def _place(folder: Path, manifest: Manifest, tower: TowerName, machine: Machine) -> Path:
    known = [manifest.sha256, tower, dataclasses.asdict(machine)]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:32]}.json"
