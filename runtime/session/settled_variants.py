"""Remember which variants ``verify`` has checked on this machine with the installed onnxruntime."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

from runtime.artifact.manifest import seal
from runtime.artifact.variants import Variant
from runtime.atomic_write import write_text
from runtime.errors import OutputError
from runtime.machine import cpu
from runtime.machine.cache_folder import default_cache, usable_cache
from runtime.session.providers import installed_packages

_FOLDER = "verified"
_FAILED = "failed"
_of_this_process: dict[str, str] = {}  # for machines without a writable cache folder


def is_settled(variant: Variant, provider: str, scope: str = "") -> bool:
    """Return whether ``variant`` was verified here with ``provider`` and the installed onnxruntime.

    ``scope`` is what else the verdict depends on: the GPU with its driver and libraries, and the precision if it is
    below float32.
    """
    return find_verdict(variant, provider, scope) is True


def find_verdict(variant: Variant, provider: str, scope: str = "") -> bool | None:
    """Return whether ``variant`` passed when it was verified here; ``None`` if it was not. See :func:`is_settled`."""
    key = _key(variant, provider, scope)
    try:
        verdict = (default_cache(_FOLDER) / key).read_text("utf-8")
    except (OSError, RuntimeError):  # RuntimeError: the user has no home folder
        if key not in _of_this_process:
            return None
        verdict = _of_this_process[key]
    return verdict != _FAILED


def settle(variant: Variant, provider: str, scope: str = "", *, passed: bool = True) -> None:
    """Record that ``variant`` was verified. Without a writable cache folder, this process alone remembers it."""
    key, verdict = _key(variant, provider, scope), "" if passed else _FAILED
    folder = usable_cache(_FOLDER, None)
    try:
        if folder is not None:
            write_text(Path(folder, key), verdict)
            return
    except OutputError:
        pass
    _of_this_process[key] = verdict


def _key(variant: Variant, provider: str, scope: str) -> str:
    machine = [platform.machine(), cpu.cpu_model(), sorted(cpu.cpu_flags()), installed_packages(), scope]
    key = [dataclasses.asdict(variant), provider, machine]
    return seal(key)[:32]
