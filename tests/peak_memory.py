"""Measure the memory that code takes in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="the peak is that of the process on Linux alone")
_HEAD = """
import sys
from pathlib import Path
from runtime.machine.limits import read_peak_bytes as peak
"""


def run_and_read(code: str, *arguments: object) -> list[int]:
    """Run ``code``, which can call ``peak()`` for the largest memory so far, and return the integers that it prints."""
    command = [sys.executable, "-c", _HEAD + code, *map(str, arguments)]
    return [int(word) for word in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]
