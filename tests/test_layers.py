"""`make check` runs the contracts of pyproject.toml; this test proves that they find a breach."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT


@pytest.mark.process
def test_an_import_hidden_in_a_function_is_found(tmp_path: Path) -> None:
    pytest.importorskip("importlinter", reason="needs import-linter, which the extra dev installs")
    for name in ("benchmarks", "exporters", "runtime"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.jpg"))
    with (tmp_path / "benchmarks/results/prices.py").open("a", encoding="utf-8") as module:
        module.write("\ndef hidden() -> None:\n    import benchmarks.report.format\n")
    program = Path(sys.executable).with_name("lint-imports")
    command = [str(program), "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Layers of benchmarks BROKEN" in done.stdout
