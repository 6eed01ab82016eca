"""A toy CLIP in transformers' layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.exporters.toys import save_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip") / "toy")
