from __future__ import annotations

from pathlib import Path

import pytest

import exporters
from tests.exporters.toys import save_toy


@pytest.fixture(scope="session")
def toy_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a toy BERT in the layout of transformers."""
    return save_toy(tmp_path_factory.mktemp("weights") / "toy")


@pytest.fixture(scope="session")
def toy(toy_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifact of the toy BERT, which torch can load too. Do not write in it."""
    options = exporters.ExportOptions(weights=str(toy_weights))
    folder = tmp_path_factory.mktemp("artifacts")
    return exporters.export("bert-base-en", output=folder, options=options, artifact_name="toy")
