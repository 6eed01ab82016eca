"""Remember which variants ``verify`` has checked on this machine with the installed onnxruntime."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from contextlib import suppress
from pathlib import Path

from runtime.artifact.variants import Variant
from runtime.atomic_write import write_text
from runtime.errors import OutputError
from runtime.machine import cpu
from runtime.machine.cache_folder import default_cache, usable_cache
from runtime.session.providers import installed_packages

_FOLDER = "verified"


def is_settled(variant: Variant, provider: str) -> bool:
    """Return whether ``variant`` was verified here with ``provider`` and the installed onnxruntime."""
    try:
        return (default_cache(_FOLDER) / _key(variant, provider)).is_file()
    except (OSError, RuntimeError):  # RuntimeError: the user has no home folder
        return False


def settle(variant: Variant, provider: str) -> None:
    """Record that ``variant`` was verified. Without a writable cache folder, nothing is recorded."""
    folder = usable_cache(_FOLDER, None)
    if folder is not None:
        with suppress(OutputError):
            write_text(Path(folder, _key(variant, provider)), "")


def _key(variant: Variant, provider: str) -> str:
    machine = [platform.machine(), cpu.cpu_model(), sorted(cpu.cpu_flags()), installed_packages()]
    key = [dataclasses.asdict(variant), provider, machine]
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
