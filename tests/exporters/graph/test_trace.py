from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import runtime
from exporters.catalogue.options import OPSETS, ExportOptions
from exporters.catalogue.spec import BackboneSpec
from exporters.errors import GraphError
from exporters.export_towers import export_towers
from exporters.families.cnn.tower import Cnn, CnnTower
from exporters.graph import onnx_file
from exporters.graph.graph_input import GraphInput
from exporters.graph.onnx_file import write_graph
from exporters.graph.trace import _check_signature, build_graph
from runtime.artifact.manifest import TensorSpec
from runtime.artifact.reader import read_manifest
from tests.exporters.toy_graphs import write_text_graph
from tests.paths import ROOT

OUTPUT = TensorSpec(name="embedding", dtype="float32", shape=("batch", 3))


def make_input(batch: int = 2) -> GraphInput:
    return GraphInput(spec=TensorSpec(name="x", dtype="float32", shape=("batch", 4)), example=torch.rand(batch, 4))


class Frozen(nn.Module):
    """A module that works for the traced batch size only."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3] + torch.arange(6.0).reshape(2, 3)


def test_the_graph_has_the_recorded_inputs_and_output(exported: Path) -> None:
    graph = onnx.load(exported / "image.onnx").graph
    assert [tensor.name for tensor in graph.input] == ["pixels"]
    assert [tensor.name for tensor in graph.output] == ["embedding"]
    (pixels,), (embedding,) = graph.input, graph.output
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert embedding.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [dim.dim_param or dim.dim_value for dim in pixels.type.tensor_type.shape.dim] == ["batch", 40, 40, 3]
    assert [dim.dim_param or dim.dim_value for dim in embedding.type.tensor_type.shape.dim] == ["batch", 12]


def test_the_float32_graph_takes_pixel_values(exported_float32: Path) -> None:
    (pixel_values,) = onnx.load(exported_float32 / "image.onnx").graph.input
    assert pixel_values.name == "pixel_values"
    assert [d.dim_param or d.dim_value for d in pixel_values.type.tensor_type.shape.dim] == ["batch", 3, 40, 40]


def test_the_graph_has_no_classification_head(exported: Path) -> None:
    graph = onnx.load(exported / "image.onnx").graph
    assert not any("fc" in tensor.name for tensor in graph.initializer)
    assert not any(node.op_type in ("Gemm", "MatMul") for node in graph.node)


def test_the_graph_holds_no_paths_of_the_exporting_machine(exported: Path) -> None:
    data = (exported / "image.onnx").read_bytes()
    for trace in (b".py", b"site-packages", b"forward(", str(ROOT).encode()):
        assert trace not in data


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
def test_the_graph_has_the_requested_opset(opset: int) -> None:
    graph = build_graph(nn.Linear(4, 3).eval(), [make_input()], OUTPUT, opset=opset)
    assert graph.opset_imports[""] == opset
    with pytest.raises(GraphError, match=f"the graph has opset {opset} instead of 17; choose another --opset"):
        _check_signature(graph, [make_input().spec], OUTPUT, 17)


class Rotary(nn.Module):
    """Rotary positions as in Llama and Qwen: the angles are the same for all texts of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        heads: Tensor = x.reshape(*x.shape[:2], 2, 4).transpose(1, 2)
        angles = torch.arange(x.shape[1])[None, :, None] * torch.tensor([1.0, 0.1])
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
        turned = torch.cat((-heads[..., 2:], heads[..., :2]), dim=-1)
        vectors: Tensor = (heads * cos + turned * sin).mean(dim=(1, 2))
        return vectors


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
def test_rotary_positions_hold_for_batches(opset: int, tmp_path: Path) -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", "sequence", 8))
    output = TensorSpec(name="embedding", dtype="float32", shape=("batch", 4))
    module, x = Rotary().eval(), torch.rand(3, 5, 8)
    graph = build_graph(module, [GraphInput(spec=spec, example=torch.rand(2, 7, 8))], output, opset=opset)
    ir.save(graph, tmp_path / "rotary.onnx")
    (vectors,) = onnxruntime.InferenceSession(tmp_path / "rotary.onnx").run(None, {"x": x.numpy()})
    np.testing.assert_allclose(vectors, module(x).numpy(), rtol=1e-5, atol=1e-6)


def test_a_submodule_may_have_the_name_of_the_output() -> None:
    class Embeds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            embedded: Tensor = self.embedding(x.to(torch.int64) % 5).sum(dim=1)
            return embedded

    graph = build_graph(Embeds().eval(), [make_input()], OUTPUT)
    names = [value.name for node in graph.graph for value in node.outputs] + list(graph.graph.initializers)
    assert names.count("embedding") == 1


def test_a_graph_that_is_not_valid_is_refused(tmp_path: Path) -> None:
    text = "toy (float[batch, 4] x) => (float[batch, 3] embedding) { embedding = MatMul(x) }"
    with pytest.raises(GraphError, match="the graph is not valid ONNX: "):
        write_graph(tmp_path / "new.onnx", ir.load(write_text_graph(tmp_path / "toy.onnx", text)))


def test_a_constant_batch_axis_is_refused() -> None:
    with pytest.raises(GraphError):
        build_graph(Frozen().eval(), [make_input()], OUTPUT)


def test_an_output_of_another_size_is_refused() -> None:
    with pytest.raises(GraphError, match=r"\['batch', 5\] instead of"):
        build_graph(nn.Linear(4, 5).eval(), [make_input()], OUTPUT)


@pytest.mark.slow
def test_weights_beyond_protobufs_limit_are_in_a_second_file(
    tiny_spec: BackboneSpec, tiny_cnn: Cnn, tmp_path: Path, photo_paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lower limit stands in for a model such as XLM-RoBERTa-large, which is too large for a test."""
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_THRESHOLD_BYTES", 1000)
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        export_towers(tiny_spec, [CnnTower(tiny_cnn, ExportOptions(), output_dim=12)], folder, options=ExportOptions())
    first, second = folders
    manifest = read_manifest(first)
    assert manifest.towers["image"].external_data == "image.onnx.data"
    assert manifest.files["image.onnx.data"].size_bytes > 1000
    assert (first / "image.onnx.data").read_bytes() == (second / "image.onnx.data").read_bytes()
    assert "| image.onnx.data | weights of the graph of the image tower |" in (first / "README.md").read_text()
    vectors = runtime.load(first).embed(photo_paths)
    assert vectors.shape == (len(photo_paths), 12)
    runtime.verify(first)
    (first / "image.onnx.data").unlink()
    with pytest.raises(runtime.IntegrityError, match=r"image\.onnx\.data"):
        runtime.load(first)
    data = second / "image.onnx.data"
    data.write_bytes(data.read_bytes()[:-1] + b"x")
    with pytest.raises(runtime.IntegrityError, match=r"image\.onnx\.data"):
        runtime.load(second)
