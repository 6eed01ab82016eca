"""Poolings traced by torch: their token features are found, and the written modules give the graph's vectors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from exporters.errors import PublishError
from exporters.graph.graph_input import GraphInput
from exporters.graph.onnx_file import load_graph
from exporters.graph.trace import build_graph
from exporters.modules.pooling import TokenPool
from exporters.publish.hidden_state import find_hidden_state
from exporters.publish.proof import run_graph
from exporters.publish.sentence_chain import MODES, Module, apply_chain, chain_obstacle, read_chain, write_chain
from exporters.publish.source import Source
from runtime.artifact.manifest import Pooling, TensorSpec
from runtime.artifact.reader import read_manifest
from tests.exporters.publish.toys import DIM, write_text_artifact

ALL = Pooling(method="cls", others=("max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"))
WIDTH = 6


class Pooled(nn.Module):
    """An encoder that is an embedding and a layer norm, with every pooling of sentence-transformers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.norm = nn.Embedding(11, WIDTH), nn.LayerNorm(WIDTH)
        self.pool = TokenPool(ALL)
        self.dense = nn.Linear(6 * WIDTH, DIM, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return torch.tanh(self.dense(self.pool(self.norm(self.table(input_ids)), attention_mask)))


def source_with(folder: Path, **tower: Any) -> Source:
    manifest = read_manifest(folder)
    towers: Any = {"text": replace(manifest.towers["text"], **tower)}
    return Source(folder=folder, manifest=replace(manifest, towers=towers))


@pytest.mark.slow
def test_every_pooling_of_sentence_transformers(tmp_path: Path) -> None:
    example = torch.tensor([[2, 4, 5, 3, 0], [2, 4, 5, 6, 3]])
    inputs = [
        GraphInput(spec=TensorSpec(name=name, dtype="int64", shape=("batch", "sequence")), example=each)
        for name, each in (("input_ids", example), ("attention_mask", (example > 0).long()))
    ]
    output = TensorSpec(name="embedding", dtype="float32", shape=("batch", DIM))
    traced = build_graph(Pooled().eval(), inputs, output, opset=18)
    path = tmp_path / "text.onnx"
    ir.save(traced, path)
    model = load_graph(path)
    hidden = find_hidden_state(model)
    assert hidden.width == WIDTH
    source = source_with(
        write_text_artifact(tmp_path / "toy"), pooling=ALL, layers=("Pooling", f"Dense: {6 * WIDTH} to {DIM}, Tanh")
    )
    write_chain(read_chain(source, model, hidden.tensor, hidden.width), tmp_path)
    feeds = {each.spec.name: each.example.numpy() for each in inputs}
    (expected,) = run_graph(path, feeds)
    model.graph.outputs.append(hidden.tensor)
    ir.save(model, tmp_path / "probe.onnx")
    _, tokens = run_graph(tmp_path / "probe.onnx", feeds)
    assert np.allclose(apply_chain(tmp_path, tokens, feeds["attention_mask"]), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("tower", "reason"),
    [
        ({"pooling": Pooling(method="model")}, "the pooling model is none"),
        ({"layers": ("Pooling: mean", "LayerNorm")}, "the layer 'LayerNorm' cannot be written"),
        ({"layers": ("Pooling: mean", "Dense: 6 to 4, Tanh, residual")}, "Tanh, residual' cannot be written"),
        ({"layers": ("Pooling: mean", "Dense: 6 to 4, SiLU")}, "SiLU' cannot be written"),
    ],
)
def test_layers_that_sentence_transformers_has_not_are_named(tower: Any, reason: str, tmp_path: Path) -> None:
    obstacle = chain_obstacle(source_with(write_text_artifact(tmp_path / "toy"), **tower))
    assert obstacle is not None
    assert reason in obstacle


def test_a_graph_with_another_number_of_layers_is_refused(tmp_path: Path) -> None:
    folder = write_text_artifact(tmp_path / "toy")
    source = source_with(folder, layers=("Pooling: mean", "Normalize"))
    model = load_graph(folder / "text.onnx")
    hidden = find_hidden_state(model)
    with pytest.raises(PublishError, match="1 linear layers after the pooling, the manifest 0"):
        read_chain(source, model, hidden.tensor, hidden.width)


@pytest.mark.parametrize(("name", "x"), [("linear.Identity", -2.0), ("activation.Tanh", 0.5), ("activation.ReLU", -1)])
def test_activations_are_those_of_torch(name: str, x: float, tmp_path: Path) -> None:
    pool = {key: mode == "cls" for mode, key in MODES.items()}
    dense = {"in_features": 1, "out_features": 1, "bias": False, "activation_function": f"torch.nn.modules.{name}"}
    weights = {"linear.weight": np.ones((1, 1), np.float32)}
    write_chain([Module(kind="Pooling", config=pool), Module(kind="Dense", config=dense, weights=weights)], tmp_path)
    assert json.loads((tmp_path / "modules.json").read_text())[2]["path"] == "2_Dense"
    vector = apply_chain(tmp_path, np.full((1, 2, 1), x), np.ones((1, 2), np.int64))
    assert vector.item() == pytest.approx(
        float(getattr(nn, name.partition(".")[2])()(torch.tensor(float(x)))), abs=1e-7
    )
