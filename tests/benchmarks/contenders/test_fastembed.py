"""fastembed runs the artifact as a model of its own. A fake replaces the library."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

import runtime
from benchmarks.contenders import fastembed
from benchmarks.contenders.protocol import Target
from runtime.artifact.manifest import TextPreprocessing
from runtime.artifact.parity import measure_agreement
from tests.benchmarks.contenders.samples import TEXTS, make_setup, with_tower


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"cleaning": "ftfy"}, "clean texts with ftfy"),
        ({"add_special_tokens": False}, "leave special tokens out"),
        ({"truncation_side": "left"}, "cut the beginning"),
        ({"prompts": {"a": "b "}, "default_prompt": "a"}, "default prompt"),
    ],
)
def test_fastembed_does_not_prepare_texts_in_every_way(
    fields: dict[str, Any], reason: str, installed: dict[str, set[str]], target: Target
) -> None:
    installed[sys.executable] = {"fastembed"}
    tower = target.manifest.towers["text"]
    assert isinstance(tower.preprocessing, TextPreprocessing)
    tower = replace(tower, preprocessing=replace(tower.preprocessing, **fields))
    setups, skipped = fastembed.find(with_tower(target, tower))
    assert not setups
    assert reason in skipped[0].reason


class _FakeTextEmbedding:
    """Fake of fastembed 0.9 that reads the folder of settings, and runs the registered graph."""

    added: dict[str, Any]
    given: dict[str, Any]

    @classmethod
    def add_custom_model(cls, **model: Any) -> None:
        cls.added = model

    def __init__(self, name: str, **given: Any) -> None:
        type(self).given = given
        folder = Path(given["specific_model_path"])
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert self.tokenizer.padding is None
        self.tokenizer.enable_truncation(settings["model_max_length"])
        pad_id = json.loads((folder / "config.json").read_text())["pad_token_id"]
        self.tokenizer.enable_padding(pad_id=pad_id, pad_token=settings["pad_token"])
        self.session = onnxruntime.InferenceSession(self.added["model_file"])

    def embed(self, texts: list[str]) -> Iterator[Any]:
        encodings = self.tokenizer.encode_batch(texts)
        feeds = {
            "input_ids": np.array([each.ids for each in encodings]),
            "attention_mask": np.array([each.attention_mask for each in encodings]),
        }
        yield from self.session.run(None, feeds)[0]


def test_fastembed_gets_the_artifact_as_a_custom_model(
    exported_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = ModuleType("fastembed.common.model_description")
    description.ModelSource = dict  # type: ignore[attr-defined]
    description.PoolingType = SimpleNamespace(DISABLED="disabled")  # type: ignore[attr-defined]
    module = ModuleType("fastembed")
    module.TextEmbedding = _FakeTextEmbedding  # type: ignore[attr-defined]
    for each in (module, ModuleType("fastembed.common"), description):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    artifact = Path(shutil.copytree(exported_text, tmp_path / "artifact"))
    tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=7, length=128)  # all-MiniLM-L6-v2 has it; it must not have an effect
    tokenizer.save(str(artifact / "tokenizer.json"))
    peer = fastembed.load(make_setup("fastembed", artifact), 3, tmp_path)
    vectors = peer.embed_items(TEXTS)
    assert measure_agreement(runtime.load(exported_text).embed(TEXTS), vectors).min_cosine > 0.999999
    added = _FakeTextEmbedding.added
    assert (added["pooling"], added["normalization"], added["dim"]) == ("disabled", False, 24)
    given = _FakeTextEmbedding.given
    assert (given["threads"], given["providers"]) == (3, ["CPUExecutionProvider"])
