"""A copy of an artifact of texts, for tests that write in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def text_artifact(exported_text: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported_text, tmp_path / "toy"))
