"""onnxruntime's telemetry: off in every process of this project, unless the user allows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process


def files_after_loading(artifact: Path, home: Path, **variables: str) -> list[Path]:
    """Embed in a process with a fresh home folder, and return the files in it."""
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = f"import runtime; runtime.load({str(artifact)!r}, provider='cpu')"
    environment = {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), **variables}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    return [path for path in home.rglob("*") if path.is_file() and "onnxruntime" in str(path)]


def test_no_store_of_events_appears(exported: Path, tmp_path: Path) -> None:
    assert files_after_loading(exported, tmp_path / "home") == []


def test_the_user_may_allow_it(exported: Path, tmp_path: Path) -> None:
    code = "import os, runtime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for value in ("0", "1"):
        environment = {**os.environ, "ORT_DISABLE_TELEMETRY": value}
        shown = subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
        )
        assert shown.stdout.strip() == value
    if not files_after_loading(exported, tmp_path / "home", ORT_DISABLE_TELEMETRY="0"):
        pytest.skip("this onnxruntime has no telemetry on this system")
