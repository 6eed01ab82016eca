"""Test that the atheris harness runs, and fails if a reader raises an exception that is not ours."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz.run_atheris import NAMES, main
from tests.fuzz.targets import Targets
from tests.paths import ROOT

pytestmark = pytest.mark.process
needs_atheris = pytest.mark.skipif(
    not find_spec("atheris"), reason="atheris has wheels for Linux on x86_64 and Python 3.11 to 3.13 alone"
)
RUNS = 200
FLAGS = ["--shallow", f"-runs={RUNS}", "-seed=1", "-verbosity=0"]
BROKEN = """
import sys
from pathlib import Path
from runtime.preprocess.text import TextPreprocessor
from tests.fuzz.run_atheris import fuzz
from tests.fuzz.seeds import TEXTS

prepare = TextPreprocessor.prepare

def broken(self, item, prompt=None):
    if prompt is None and item not in TEXTS:
        raise IndexError("string index out of range")
    return prepare(self, item, prompt)

TextPreprocessor.prepare = broken
sys.exit(fuzz(["text", *sys.argv[2:]], Path(sys.argv[1])))
"""


def test_the_harness_knows_every_target(targets: Targets) -> None:
    assert set(NAMES) == targets.by_name.keys()


@needs_atheris
def test_a_short_run_finds_no_fault(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.run_atheris", "all", *FLAGS, f"-artifact_prefix={tmp_path}/"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    runs = re.findall(r"number_of_executed_units: *([0-9]+)", found.stderr)
    assert len(runs) == len(NAMES)
    assert min(map(int, runs)) >= RUNS
    assert list(tmp_path.iterdir()) == []


@needs_atheris
def test_the_harness_can_fail(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BROKEN, str(tmp_path), *FLAGS, f"-artifact_prefix={tmp_path}/"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert found.returncode == 77, found.stdout + found.stderr  # libFuzzer's exit code for a crash
    assert list(tmp_path.glob("crash-*"))
    assert "IndexError: string index out of range" in found.stdout + found.stderr


def test_an_unknown_target_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["smell", "-runs=1"]) == 2
    assert "targets are manifest, sealed, image" in capsys.readouterr().err
