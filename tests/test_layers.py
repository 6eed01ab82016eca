"""The contracts of pyproject.toml hold the layers: a planted breach of each kind is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BREACHES = {
    "a lower layer imports a higher one": (
        "runtime/machine/cpu.py",
        "from runtime.inference import embedder",
        "Layers",
    ),
    "runtime imports exporters": ("runtime/errors.py", "import exporters.errors", "Packages"),
    "a circle within a folder": ("runtime/machine/threads.py", "from runtime.machine import limits", "circles"),
    "a circle hidden in a function": (
        "benchmarks/results/prices.py",
        "def hidden() -> None:\n    import benchmarks.report.format",
        "Layers of benchmarks",
    ),
    "a module in no layer": ("runtime/stray.py", "", "Layers of runtime"),
}
pytestmark = pytest.mark.process


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        str(Path(sys.executable).with_name("lint-imports")),
        "--config",
        str(ROOT / "pyproject.toml"),
        "--no-cache",
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("benchmarks", "exporters", "runtime"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.jpg"))
    return tmp_path


def test_the_layers_hold() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(("module", "line", "contract"), BREACHES.values(), ids=BREACHES)
def test_a_breach_is_found(copy: Path, module: str, line: str, contract: str) -> None:
    place = copy / module
    before = place.read_text() if place.exists() else ""
    place.write_text(f"{before}\n{line}\n")
    result = lint(copy)
    broken = [row for row in result.stdout.splitlines() if row.endswith("BROKEN")]
    assert result.returncode == 1
    assert any(contract in row for row in broken), broken
