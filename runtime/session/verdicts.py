"""Remember what this machine has verified with the installed onnxruntime: variants, and reduced precisions."""

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
_VERDICTS = {"": True, "failed": False}  # by the content of their files
_of_this_process: dict[str, bool] = {}  # for machines without a writable cache folder


def find_verdict(record: object, provider: str, scope: str = "") -> bool | None:
    """Return whether the graphs of ``record`` passed when they were verified here; ``None`` if they were not.

    Args:
        record: A variant, or a JSON document that tells which graphs run.
        provider: The provider that ran them.
        scope: The GPU with its driver and libraries, if any, and the precision if it is below float32.
    """
    key = _key(record, provider, scope)
    try:
        return _VERDICTS.get((default_cache(_FOLDER) / key).read_text("utf-8"))
    except (OSError, RuntimeError, ValueError):  # RuntimeError: the user has no home folder
        return _of_this_process.get(key)


def settle(record: object, provider: str, scope: str = "", *, passed: bool = True) -> None:
    """Record a verdict; see :func:`find_verdict`. Without a writable cache folder, this process alone remembers it."""
    key, folder = _key(record, provider, scope), usable_cache(_FOLDER, None)
    try:
        if folder is not None:
            write_text(Path(folder, key), next(text for text, verdict in _VERDICTS.items() if verdict is passed))
            return
    except OutputError:
        pass
    _of_this_process[key] = passed


def _key(record: object, provider: str, scope: str) -> str:
    machine = [platform.machine(), cpu.cpu_model(), sorted(cpu.cpu_flags()), installed_packages(), scope]
    document = dataclasses.asdict(record) if isinstance(record, Variant) else record
    return seal([document, provider, machine])[:32]
