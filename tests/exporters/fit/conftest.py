"""A toy text encoder, and an export that does nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.exporters.toys import save_layers, save_toy


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_toy(tmp_path_factory.mktemp("toy") / "toy-bert")
    return save_layers(folder, ("Pooling", {"pooling_mode_mean_tokens": True}), ("Normalize", None), limit=32)


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the export, whose own tests are elsewhere."""
    monkeypatch.setattr("exporters.fit.learner.export", lambda *_, **__: Path())
