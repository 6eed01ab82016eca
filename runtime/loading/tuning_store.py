"""Store the settings that ``tune`` found: one file per artifact, tower and machine, in the cache folder."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Literal

from runtime.artifact.json_schema import decode
from runtime.artifact.manifest import Manifest, TowerName, seal
from runtime.artifact.variants import VariantName
from runtime.atomic_write import write_text
from runtime.errors import ManifestError, OutputError, UsageError
from runtime.machine.cache_folder import CACHE_VARIABLE, default_cache, usable_cache
from runtime.machine.cuda_driver import gpu_names
from runtime.machine.threads import available_threads
from runtime.session.machine_facts import MachineFacts, machine_facts
from runtime.session.providers import ProviderName, installed_packages
from runtime.session.session import SessionOptions

LARGEST_BATCH = 4096
_FOLDER = "tuned"
_SHOWN = 300  # characters of the differences in a warning
_LOG = logging.getLogger("runtime")


@dataclass(frozen=True, kw_only=True)
class MachineFingerprint(MachineFacts):
    """The facts about a machine that decide which settings are the fastest.

    ``gpus`` are those that the installed onnxruntime could use. ``threads`` are those that the affinity mask and the
    container quota allow.
    """

    threads: int


@dataclass(frozen=True, kw_only=True)
class TuneSetting:
    """One way to load a tower."""

    provider: ProviderName
    variant: VariantName
    threads: int  # of one batch on the provider ``cpu``; elsewhere of all batches, which share them
    concurrent_batches: int = 1  # as many as the threads allow on the provider ``cpu``; elsewhere the default

    def __str__(self) -> str:
        threads, batches = f"{self.threads} thread{'s' * (self.threads > 1)}", self.concurrent_batches
        if batches > 1:
            threads = f"{batches} x {threads}" if self.provider == "cpu" else f"{threads} for {batches} batches"
        return f"{self.provider}, {self.variant}, {threads}"

    @property
    def total_threads(self) -> int:
        """The threads of all batches."""
        return self.threads * self.concurrent_batches if self.provider == "cpu" else self.threads


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """The measurements of one case."""

    setting: TuneSetting
    batch_size: int  # items of a batch; of texts, those of a call for each batch that may run side by side
    p50_ms: float  # median time of a call, preprocessing included
    p95_ms: float  # 95th percentile of the time of a call
    items_per_s: float  # throughput: the median of the turns
    min_cosine: float  # smallest cosine similarity to a golden vector
    calls: int  # timed calls
    spread: float  # interquartile range of the throughput of the turns, as a share of its median


@dataclass(frozen=True, kw_only=True)
class TunedSettings:
    """The fastest case for one tower of an artifact on one machine.

    Attributes:
        date: Date of the measurement, as ``2026-01-31``.
        artifact: Hash of the artifact's manifest.
        winner: The fastest case.
        max_latency_ms: Upper bound of its ``p95_ms`` that the user set; ``None``: no bound.
    """

    schema_version: Literal[3] = 3
    date: str
    artifact: str
    tower: TowerName
    machine: MachineFingerprint
    winner: CaseResult
    max_latency_ms: float | None

    def __post_init__(self) -> None:
        """Raise :class:`UsageError` if the number of threads or items is out of range."""
        used, size = self.winner.setting.total_threads, self.winner.batch_size
        if not (1 <= used <= self.machine.threads and 1 <= size <= LARGEST_BATCH):
            raise UsageError(
                f"{used} threads and batches of {size} are out of range; this machine allows "
                f"{self.machine.threads} threads and batches of {LARGEST_BATCH}"
            )

    def __str__(self) -> str:
        return f"{self.date}: {describe_case(self.tower, self.winner.setting, self.winner.batch_size)}"

    def session_options(self) -> SessionOptions:
        """Return the options to load an artifact with these settings."""
        setting, reason = self.winner.setting, f"tuned on this machine on {self}"
        return SessionOptions(
            provider=setting.provider,
            variant=setting.variant,
            threads=setting.total_threads,
            concurrent_batches=setting.concurrent_batches,
            batch_size=self.winner.batch_size,
            reason=reason,
            variant_reason=reason,
        )


def describe_case(tower: TowerName, setting: TuneSetting, batch_size: int) -> str:
    """Return words for a case. Texts have no batch size: their budget of tokens decides how a call is batched."""
    if tower != "text":
        return f"{setting}, batches of {batch_size}"
    texts = batch_size * setting.concurrent_batches
    return f"{setting}, calls of {texts} text{'s' * (texts > 1)}"


def machine_fingerprint() -> MachineFingerprint:
    """Return the fingerprint of this machine. It asks for GPUs only if a package for GPUs is installed."""
    gpus = gpu_names() if "onnxruntime-gpu" in installed_packages() else ()
    return MachineFingerprint(**vars(machine_facts(gpus)), threads=available_threads())


def read_tuning(manifest: Manifest, tower: TowerName) -> TunedSettings | None:
    """Read the settings of a tower on this machine; ``None`` if none are stored that fit.

    A warning names settings that are damaged, or that ``tune`` found on this CPU with other software, threads or GPUs.
    """
    machine = machine_fingerprint()
    paths = {path.name: path for path in _find(manifest, tower, machine)}
    path = paths.get(_file_name(manifest, tower, machine)) or next(iter(paths.values()), None)
    if path is None:
        return None
    try:
        stored = decode(TunedSettings, json.loads(path.read_text("utf-8")), "tuning")
    except (OSError, ValueError, RecursionError, ManifestError) as exc:
        subject, reason = str(path), str(exc)
    else:
        if (stored.artifact, stored.tower, stored.machine) == (manifest.sha256, tower, machine):
            return stored
        subject, reason = str(stored), _describe_differences(stored, machine) or "it is of another artifact or tower"
    way_out = "run `python -m runtime tune` again, or remove it with --forget"
    _LOG.warning("ignoring stored tuning (%s): %s; %s", subject, shorten(reason, _SHOWN), way_out)
    return None


def check_store() -> None:
    """Raise :class:`OutputError` if this user's cache folder is not writable."""
    if usable_cache(_FOLDER, None) is None:
        raise OutputError(f"cannot write this user's cache folder; set {CACHE_VARIABLE} to another folder")


def write_tuning(manifest: Manifest, tuning: TunedSettings) -> Path:
    """Store ``tuning`` for later loads, and return its file.

    Raises:
        OutputError: The file cannot be written.
    """
    check_store()
    path = default_cache(_FOLDER) / _file_name(manifest, tuning.tower, tuning.machine)
    write_text(path, json.dumps(dataclasses.asdict(tuning), indent=2))
    return path


def remove_tuning(manifest: Manifest, tower: TowerName) -> bool:
    """Remove the settings of a tower on this CPU, with any software, threads and GPUs; return whether any were stored.

    Raises:
        OutputError: A file cannot be removed.
    """
    paths = _find(manifest, tower, machine_fingerprint())
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            raise OutputError(f"cannot remove {path} ({exc.strerror}); fix its permissions") from exc
    return bool(paths)


def _find(manifest: Manifest, tower: TowerName, machine: MachineFingerprint) -> list[Path]:
    """Return the files of a tower on this CPU, whatever else has changed, in order of their names."""
    try:
        return sorted(default_cache(_FOLDER).glob(f"{_prefix(manifest, tower, machine)}*.json"))
    except RuntimeError:  # there is no home folder, so nothing was stored
        return []


def _file_name(manifest: Manifest, tower: TowerName, machine: MachineFingerprint) -> str:
    return f"{_prefix(manifest, tower, machine)}{seal(dataclasses.asdict(machine))[:16]}.json"


def _prefix(manifest: Manifest, tower: TowerName, machine: MachineFingerprint) -> str:
    return f"{seal([manifest.sha256, tower, machine.architecture, machine.cpu])[:32]}-"


def _describe_differences(stored: TunedSettings, now: MachineFingerprint) -> str:
    old, new = (
        {
            "threads": str(machine.threads),
            "GPUs": ", ".join(machine.gpus) or "none",
            **machine.packages,
            **dict.fromkeys(machine.cpu_flags, "present"),
        }
        for machine in (stored.machine, now)
    )
    return ", ".join(
        f"{name} is {new.get(name, 'absent')} and was {old.get(name, 'absent')}"
        for name in old | new
        if old.get(name) != new.get(name)
    )
