"""The source distribution holds all that is needed to test the project."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.paths import ROOT

NEEDED = (
    *("CHANGELOG.md", "LICENSE", "Makefile", "README.md", "constraints.txt", "pyproject.toml", "docs/index.md"),
    *("tests/conftest.py", "tests/public_api.txt", "benchmarks/__main__.py", "runtime/doctor/probe.onnx"),
)


@pytest.mark.process
def test_the_sdist_holds_tests_docs_and_benchmarks(tmp_path: Path) -> None:
    """Build from a copy: in a checkout, setuptools would also take the files of an older list in an egg-info."""
    checkout = tmp_path / "checkout"
    for name in (".ci", "benchmarks", "docs", "exporters", "runtime", "tests"):
        shutil.copytree(ROOT / name, checkout / name)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, checkout)
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=checkout, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not {*NEEDED} - names
    assert not [name for name in names if "__pycache__" in name]
