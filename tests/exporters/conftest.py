"""Fixtures of toy Finetuner runs, and of the cache of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from torch import Tensor

from tests.exporters.toys import RUN_METADATA, bert_run_weights, make_clip, save_toy, write_run


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy(tmp_path_factory.mktemp("tokenizer") / "toy")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "my-run", {"toy": (RUN_METADATA, bert_run_weights())})


@pytest.fixture
def clip_run(tmp_path: Path) -> Path:
    """Write a run of a CLIP whose towers were fine-tuned separately."""
    state_dict = make_clip().state_dict()
    halves = {"clip-text": ("text_model.", "text_projection."), "clip-vision": ("vision_model.", "visual_projection.")}
    models: dict[str, tuple[Mapping[str, Any], Mapping[str, Tensor]]] = {}
    for name, (encoder, projection) in halves.items():
        renamed = {key.replace(encoder, "_model."): value for key, value in state_dict.items() if encoder in key}
        renamed |= {key.replace(projection, "_projection."): v for key, v in state_dict.items() if projection in key}
        metadata = {"name": name, "descriptor": "someone/toy-clip", "options": {"pooler": None}}
        models[f"openai/{name}"] = (metadata, renamed)
    return write_run(tmp_path / "clip-run", models)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of an empty cache of the Hugging Face hub. There is no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"
