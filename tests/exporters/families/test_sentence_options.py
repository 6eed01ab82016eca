"""Options of the user change a model of sentence-transformers as they say, or are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertModel, PreTrainedTokenizerFast

from runtime.artifact.manifest import Pooling, TextPreprocessing
from runtime.errors import UsageError
from tests.exporters.families.test_sentence import MEAN, load
from tests.exporters.toys import save_layers, save_toy

PROMPT, TEXT = "a prompt: ", "and a text"


def test_gem_leaves_the_prompt_out_where_the_model_does(tmp_path: Path) -> None:
    folder = save_layers(save_toy(tmp_path / "toy"), ("Pooling", {"pooling_mode": "mean", "include_prompt": False}))
    settings = {"prompts": {"query": PROMPT}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    tower = load(folder, pooling=Pooling(method="gem", p=3.0, eps=1e-3))
    assert isinstance(tower.preprocessing, TextPreprocessing)
    assert "pooling_mask" in tower.preprocessing.inputs
    assert tower.record.layers == ("GeMPooling, without the prompt",)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    start = len(tokenizer(PROMPT).input_ids) - 1  # without the last special token
    with torch.inference_mode():
        encoded = tokenizer(PROMPT + TEXT, return_tensors="pt")
        tokens = BertModel.from_pretrained(folder)(encoded["input_ids"], encoded["attention_mask"]).last_hidden_state
        expected = tokens[0, start:].clamp(min=1e-3).pow(3).mean(dim=0).pow(1 / 3)
        torch.testing.assert_close(tower.embed(TEXT), expected, rtol=1e-4, atol=1e-6)
        vectors = tower.module()(*(graph_input.example for graph_input in tower.inputs()))
    np.testing.assert_allclose(vectors.numpy(), tower.reference()[:2], atol=1e-5)


def test_a_normalize_before_the_last_layer_cannot_be_left_out(tmp_path: Path) -> None:
    folder = save_layers(save_toy(tmp_path / "toy"), MEAN, ("Normalize", None), ("Dropout", {"dropout": 0.1}))
    load(folder)
    with pytest.raises(UsageError, match=r"--no-normalize: .*before its last layer, a Dropout; leave the option out"):
        load(folder, normalize=False)
