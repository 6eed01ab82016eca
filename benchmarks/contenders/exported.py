"""Export models to ONNX with another library: once, in its own process, so that its memory is not measured."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.contenders.peer import PeerError

TIMEOUT_S = 900.0


def export_once(
    name: str, model: str, scratch: Path, command: Callable[[Path], Sequence[str]], *, timeout_s: float = TIMEOUT_S
) -> Path:
    """Export ``model`` into a folder in ``scratch`` unless that is done already, and return the folder.

    ``name`` is the library. ``command`` returns the export command for an output folder.

    Raises:
        PeerError: The export failed; the message holds its last line of output.
    """
    folder = scratch / f"{name}-{hashlib.sha256(model.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    try:
        _export(name, model, command(partial), timeout_s)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _export(name: str, model: str, command: Sequence[str], timeout_s: float) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise PeerError(f"{name} did not export {model} within {timeout_s:g} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise PeerError(f"{name} cannot export {model} (exit code {done.returncode}: {lines[-1]})")
