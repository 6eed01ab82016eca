"""Test that Ctrl-C leaves no traceback while a command line is still imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT


@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="needs POSIX")
@pytest.mark.parametrize("program", ["runtime", "exporters"])
def test_an_interrupt_during_the_imports_ends_without_a_traceback(program: str, tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)", "utf-8"
    )
    result = subprocess.run(
        [sys.executable, "-m", program, "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr == ""
    assert result.returncode == -signal.SIGINT
