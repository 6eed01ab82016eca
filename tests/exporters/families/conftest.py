"""Fixtures of a tiny BERT in the layout of transformers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.exporters.toys import save_toy


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy(tmp_path_factory.mktemp("toy") / "toy")


@pytest.fixture
def checkpoint(toy: Path, tmp_path: Path) -> Path:
    """A copy, to be extended."""
    return Path(shutil.copytree(toy, tmp_path / "checkpoint"))
