"""Compare the translations of attention and GELU with torch, and check that ONNX Runtime fuses them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from exporters.errors import GraphError
from exporters.graph.graph_input import GraphInput
from exporters.graph.trace import build_graph
from runtime.artifact.manifest import TensorSpec

_TOKENS, _DIM = 5, 8
_MASKS = {
    "none": None,
    "bool": torch.ones(_TOKENS, _TOKENS).tril().bool(),
    "float": torch.randn(_TOKENS, _TOKENS, generator=torch.manual_seed(0)),
    "infinite": torch.full((_TOKENS, _TOKENS), -torch.inf).triu(1),
}

pytestmark = pytest.mark.slow  # each test traces a graph


class Attends(nn.Module):
    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.how = how
        self.keys, self.values = nn.Linear(_DIM, _DIM), nn.Linear(_DIM, _DIM)

    def forward(self, x: Tensor) -> Tensor:
        heads = [t.unflatten(-1, (2, -1)).transpose(1, 2) for t in (x, self.keys(x), self.values(x))]
        return scaled_dot_product_attention(*heads, **self.how).transpose(1, 2).flatten(-2)


class Activates(nn.Module):
    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.linear, self.approximate = nn.Linear(_DIM, _DIM), approximate

    def forward(self, x: Tensor) -> Tensor:
        return gelu(self.linear(x), approximate=self.approximate)


def build(module: nn.Module, path: Path) -> Path:
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", _TOKENS, _DIM))
    output = TensorSpec(name="embedding", dtype="float32", shape=("batch", _TOKENS, _DIM))
    example = torch.randn(2, _TOKENS, _DIM)
    ir.save(build_graph(module.eval(), [GraphInput(spec=spec, example=example)], output), path)
    return path


def run(path: Path, x: Tensor, fused: Path | None = None) -> np.ndarray[Any, Any]:
    options = ort.SessionOptions()
    if fused:
        options.optimized_model_filepath = str(fused)
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x.numpy()})[0])


@pytest.mark.parametrize("mask", _MASKS)
@pytest.mark.parametrize("scale", [None, 0.7])
def test_attention_agrees_with_torch(mask: str, scale: float | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Attends(attn_mask=_MASKS[mask], scale=scale)
    path, x = build(module, tmp_path / "graph.onnx"), torch.randn(3, _TOKENS, _DIM)
    np.testing.assert_allclose(run(path, x), module(x).detach().numpy(), atol=2e-6)
    operators = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert operators["IsNaN"] == 0
    assert operators["Transpose"] == 4, "of query, key, value and result, once each"


def test_causal_attention_agrees_with_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Attends(is_causal=True), torch.randn(3, _TOKENS, _DIM)
    np.testing.assert_allclose(run(build(module, tmp_path / "graph.onnx"), x), module(x).detach().numpy(), atol=2e-6)


def test_a_fully_masked_row_is_not_nan(tmp_path: Path) -> None:
    module = Attends(attn_mask=torch.zeros(_TOKENS, _TOKENS, dtype=torch.bool))
    assert np.isfinite(run(build(module, tmp_path / "graph.onnx"), torch.randn(3, _TOKENS, _DIM))).all()


def test_grouped_query_attention_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="grouped queries"):
        build(Attends(enable_gqa=True), tmp_path / "graph.onnx")


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_agrees_with_torch(approximate: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Activates(approximate), 3 * torch.randn(3, _TOKENS, _DIM)
    path = build(module, tmp_path / "graph.onnx")
    np.testing.assert_allclose(run(path, x, tmp_path / "fused.onnx"), module(x).detach().numpy(), atol=2e-6)
    if approximate == "none":
        assert "BiasGelu" in {node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node}


class FindsFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.argmax(dim=1), x.int().argmax(dim=-1), x.argmax(dim=2, keepdim=True)[..., 0]], dim=-1)


def test_argmax_of_integers_is_the_first_whatever_a_kernel_does_with_equal_values(tmp_path: Path) -> None:
    spec = TensorSpec(name="x", dtype="int64", shape=("batch", 4, 4))
    output = TensorSpec(name="embedding", dtype="int64", shape=("batch", 4, 3))
    module, example = FindsFirst().eval(), torch.randint(0, 3, (5, 4, 4), generator=torch.manual_seed(0))
    model = ir.to_proto(build_graph(module, [GraphInput(spec=spec, example=example)], output))
    largest = [node for node in model.graph.node if node.op_type == "ArgMax"]
    assert len(largest) == 3
    for last in (0, 1):
        for node in largest:
            (choice,) = [each for each in node.attribute if each.name == "select_last_index"]
            choice.i = last
        session = ort.InferenceSession(model.SerializeToString())
        np.testing.assert_array_equal(session.run(None, {"x": example.numpy()})[0], module(example).numpy())
