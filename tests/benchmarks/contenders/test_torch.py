"""Torch runs the model of the export in the precision that was asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import runtime
from benchmarks.contenders import torch as contender
from benchmarks.contenders.protocol import Target
from exporters import ExportOptions, export
from exporters.families import load as families
from runtime.artifact.manifest import Pooling
from runtime.artifact.reader import read_manifest
from tests.benchmarks.contenders.samples import TEXTS


@pytest.mark.parametrize(
    ("variant", "precision", "weights", "dtype"),
    [
        ("float64", "fp32", torch.float64, np.float64),
        ("eager", "fp32", torch.float32, np.float32),
        ("bf16", "bf16", torch.bfloat16, np.float32),
    ],
)
def test_float_inputs_and_weights_have_the_precision_of_the_model(
    variant: str,
    precision: Any,
    weights: torch.dtype,
    dtype: type,
    exported_float32: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = read_manifest(exported_float32)
    module = torch.nn.Linear(12, 3)
    tower = SimpleNamespace(
        record=manifest.towers["image"],
        inputs=lambda: [SimpleNamespace(spec=SimpleNamespace(name="pixels"))],
        module=lambda: module,
    )
    monkeypatch.setattr(contender, "find_model", lambda name: name)
    monkeypatch.setattr(families, "load_towers", lambda *_, **__: [tower])
    target = Target(folder=exported_float32, manifest=manifest, tower="image", weights="random:0")
    loaded = contender.load(contender.make_setup(target, variant, "cpu", precision), torch.get_num_threads(), tmp_path)
    vectors = loaded.embed_arrays({"pixels": np.ones((2, 12), dtype=np.float32)})
    assert (vectors.shape, vectors.dtype, module.weight.dtype) == ((2, 3), dtype, weights)


def test_torch_has_the_options_of_the_export(toy_weights: Path, tmp_path: Path, kept_threads: None) -> None:
    pooling = Pooling(method="max")
    options = ExportOptions(weights=str(toy_weights), max_length=8, pooling=pooling, normalize=True)
    artifact = export("bert-base-en", output=tmp_path, options=options, artifact_name="short")
    target = Target(folder=artifact, manifest=read_manifest(artifact), tower="text", weights=str(toy_weights))
    vectors = contender.load(contender.make_setup(target, "eager", "cpu"), 3, tmp_path).embed_items(TEXTS)
    assert torch.get_num_threads() == 3
    np.testing.assert_allclose(vectors, runtime.load(artifact).embed(TEXTS), atol=1e-5)
