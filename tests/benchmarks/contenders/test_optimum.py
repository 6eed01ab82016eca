"""An export of optimum is measured by its own pooling."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import runtime
from benchmarks.contenders import optimum, sentence_transformers
from benchmarks.contenders.protocol import Target
from runtime.artifact.manifest import Pooling
from runtime.artifact.parity import measure_agreement
from tests.benchmarks.contenders.samples import TEXTS, make_setup, with_tower


@pytest.mark.parametrize(("pooling", "count"), [("mean", 3), ("cls", 0)])
def test_a_folder_of_transformers_is_pooled_by_the_mean(
    pooling: Any, count: int, installed: dict[str, set[str]], target: Target, tmp_path: Path
) -> None:
    installed[sys.executable] = {"sentence-transformers", "optimum-onnx"}
    (tmp_path / "model/modules.json").rename(tmp_path / "model/config.json")
    tower = replace(target.manifest.towers["text"], decided_by="default", pooling=Pooling(method=pooling))
    target = with_tower(target, tower)
    assert len(sentence_transformers.find(target)[0]) == count
    (skipped,) = optimum.find(target)[1]
    assert "no modules.json" in skipped.reason


@pytest.fixture
def exported_by_optimum(exported_text: Path, tmp_path: Path) -> Path:
    """Export of the toy as optimum makes it: a graph with two outputs, and its tokenizer."""
    graph = onnx.load(exported_text / "text.onnx")
    (output,) = graph.graph.output
    graph.graph.node.append(onnx.helper.make_node("Identity", [output.name], ["sentence_embedding"]))
    graph.graph.output.append(onnx.helper.make_tensor_value_info("sentence_embedding", 1, ["batch", 24]))
    folder = tmp_path / "exported"
    folder.mkdir()
    onnx.save(graph, folder / "model.onnx")
    (folder / "tokenizer.json").write_text((exported_text / "tokenizer.json").read_text())
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_an_export_of_optimum_embeds_arrays_and_texts(
    target: Target, exported_by_optimum: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert target.weights is not None
    monkeypatch.setattr(optimum, "export_once", lambda *_: exported_by_optimum)
    setup = replace(make_setup("optimum", Path(target.weights)), max_length=64)
    peer = optimum.load(setup, 1, tmp_path)
    texts = TEXTS * 20  # more than a batch
    reference = runtime.load(target.folder).embed(texts)
    assert measure_agreement(reference, peer.embed_items(texts)).min_cosine > 0.999999
    ids = np.array([[2, 5, 3]])
    assert peer.embed_arrays({"input_ids": ids, "attention_mask": np.ones_like(ids)}).shape == (1, 24)
