"""Asks another process, since a broken library crashes or hangs the one that loads it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_TIMEOUT_S = 60.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the other process said.

    Attributes:
        facts: The object it printed; empty where it failed.
        failure: How it ended instead, ``None`` if it answered.
        log: The last line that it wrote on standard error.
    """

    facts: dict[str, Any]
    failure: str | None
    log: str


def ask(*question: str) -> Answer:
    """Returns what ``python -m runtime.doctor.probe QUESTION`` answers, or how it failed to."""
    return listen([sys.executable, "-m", "runtime.doctor.probe", *question], timeout_s=_TIMEOUT_S)


def listen(command: Sequence[str], *, timeout_s: float) -> Answer:
    """Runs ``command`` and returns the JSON object that is its last line of output, or how it failed to print one."""
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    child = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        output, errors = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return Answer(facts={}, failure=f"gave no answer within {timeout_s:g} s", log="")
    finally:
        _end(child)
    return _read(child.returncode, output, _last_line(errors))


def _end(child: subprocess.Popen[str]) -> None:
    """Kills a child that still runs, without waiting for one that hangs inside the kernel, as broken drivers do."""
    if child.poll() is None:
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=5)


def _read(returncode: int, output: str, log: str) -> Answer:
    if returncode < 0:
        return Answer(facts={}, failure=f"crashed with {_signal_name(-returncode)}", log=log)
    try:
        facts = json.loads(_last_line(output))
    except ValueError:
        return Answer(facts={}, failure=f"ended with exit code {returncode}: {log or 'no message'}", log=log)
    return Answer(facts=facts, failure=None, log=log)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(text: str) -> str:
    lines = _COLOUR.sub("", text).strip().splitlines()
    return lines[-1].strip() if lines else ""
