"""On a machine with a GPU, CUDA computes torch's vectors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

import runtime
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.registry import BACKBONES
from exporters.catalogue.spec import BackboneSpec, HuggingFaceSource
from exporters.export import export
from exporters.export_towers import export_towers
from exporters.families.load import load_towers
from exporters.families.pointnet.network import PointNetEmbedding, PointNetSizes
from exporters.graph.graph_input import GraphInput
from exporters.graph.trace import build_graph
from exporters.variants.build import add_variants
from exporters.variants.options import VariantOptions
from runtime.artifact.manifest import TensorSpec
from runtime.loading.placements import find_placements
from runtime.session.open_graph import check_recordable, open_graph
from runtime.session.provider_options import OPTIONS
from runtime.session.providers import PROVIDERS, available_providers, find_provider_obstacle

# Operators on the shapes of tensors, which ONNX Runtime computes on the CPU at no cost.
SHAPES = frozenset(
    {"Shape", "Squeeze", "Unsqueeze", "Concat", "Slice", "Gather", "Mul", "Add", "Cast", "Range", "ConstantOfShape"}
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        PROVIDERS["cuda"] not in available_providers() or find_provider_obstacle(PROVIDERS["cuda"]) is not None,
        reason="needs onnxruntime-gpu and an NVIDIA GPU",
    ),
]


def test_cuda_reproduces_the_golden_vectors(exported: Path) -> None:
    assert runtime.verify(exported, provider="cuda").provider == "cuda"


def test_tf32_is_off(exported: Path) -> None:
    graph = open_graph(exported / "image.onnx", PROVIDERS["cuda"], runtime.CudaOptions(), 1)
    options = graph.get_provider_options()["CUDAExecutionProvider"]
    assert options["use_tf32"] == "0"


def test_tf32_is_held_to_its_own_bounds(exported: Path) -> None:
    verification = runtime.verify(exported, provider_options=runtime.CudaOptions(tf32=True))
    assert verification.towers["image"].tolerance.min_cosine == 0.9999


TEXTS = [f"text {number} " * (1 + number % 9) for number in range(300)]


@pytest.mark.parametrize(
    "options",
    [runtime.CudaOptions(), runtime.CudaOptions(cuda_graphs=True), runtime.CudaOptions(memory_limit_bytes=2**30)],
    ids=["default", "cuda graphs", "memory limit"],
)
def test_texts_of_any_length_get_the_vectors_of_the_cpu(exported_text: Path, options: runtime.CudaOptions) -> None:
    expected = runtime.load(exported_text, provider="cpu").embed(TEXTS)
    model = runtime.load(exported_text, provider_options=options)
    for _ in range(3):  # the first run of a shape allocates its buffers, or captures its CUDA graph
        np.testing.assert_allclose(model.embed(TEXTS), expected, atol=1e-5)


def test_each_gpu_has_a_worker(exported_text: Path) -> None:
    expected = runtime.load(exported_text, provider="cpu").embed(TEXTS)
    with runtime.load(exported_text, provider="cuda", device_ids=[0]) as model:
        assert model.provider == "cuda"
        np.testing.assert_allclose(model.embed(TEXTS), expected, atol=1e-5)


def test_concurrent_callers_get_their_own_vectors(exported_text: Path) -> None:
    expected = runtime.load(exported_text, provider="cpu").embed(TEXTS)
    for graphs in (False, True):
        model = runtime.load(exported_text, provider_options=runtime.CudaOptions(cuda_graphs=graphs))
        with ThreadPoolExecutor(8) as pool:
            for start, vectors in enumerate(pool.map(lambda at, m=model: m.embed(TEXTS[at : at + 40]), range(100))):
                np.testing.assert_allclose(vectors, expected[start : start + 40], atol=1e-5)


# Heads have a size that the fast kernels take. DistilBERT reads the shape of the mask in more than one place.
CONFIGS: dict[str, dict[str, int]] = {
    "bert": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
}


@pytest.fixture(scope="module", params=CONFIGS)
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a small transformer with its variants fp16 and optimized."""
    config = {"vocab_size": 400, **CONFIGS[request.param]}
    source = HuggingFaceSource(model_id="toy", model_type=request.param, config=config, max_length=512)
    spec = BackboneSpec(name="toy", task="text-to-text", output_dim=64, architecture="transformer", source=source)
    towers = load_towers(spec, ExportOptions(weights="random"))
    folder = export_towers(spec, towers, tmp_path_factory.mktemp("text") / "toy", options=ExportOptions())
    add_variants(folder, VariantOptions(precisions=("fp16", "fp32"), items=16))
    return folder


@pytest.mark.parametrize("variant", ["fp32", "optimized", "fp16"])
@pytest.mark.parametrize("longest", [4, 31, 32, 33, 128, 510])
def test_padding_changes_no_vector(text: Path, variant: str, longest: int) -> None:
    """Attention gets lengths or a bias; its kernel depends on length, head size and GPU."""
    texts = ["word " * length for length in (1, 2, longest // 2 + 1, longest)]
    expected = runtime.load(text, provider="cpu", variant="fp32").embed(texts)
    model = runtime.load(text, provider="cuda", variant=variant)
    np.testing.assert_allclose(model.embed(texts), expected, atol=1e-2 if variant == "fp16" else 1e-4)


def test_fp16_is_taken_after_its_golden_vectors_passed_here(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path))
    assert runtime.load(text, provider="cuda").variant == "fp16"
    assert len([*(tmp_path / "verified").iterdir()]) == 1


@pytest.mark.parametrize("variant", ["fp32", "fp16"])
def test_a_replay_takes_the_masks_of_its_own_batch(text: Path, variant: str) -> None:
    model = runtime.load(text, variant=variant, provider_options=runtime.CudaOptions(cuda_graphs=True))
    usual = runtime.load(text, variant=variant, provider="cuda")
    for seed in range(100):
        lengths = np.random.default_rng(seed).integers(1, 31, 8)
        texts = [f"text {seed} " + "word " * length for length in lengths]
        np.testing.assert_allclose(model.embed(texts), usual.embed(texts), atol=1e-3)


def test_a_batch_beyond_the_memory_is_halved(text: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = runtime.CudaOptions(memory_limit_bytes=48 * 2**20)
    texts = ["word " * 500] * 200
    vectors = runtime.load(text, variant="fp32", provider_options=options).embed(texts)
    assert "too little memory for a batch" in caplog.text
    np.testing.assert_allclose(vectors, np.broadcast_to(vectors[0], vectors.shape), atol=1e-5)


@pytest.mark.parametrize("variant", ["fp32", "optimized", "fp16"])
def test_all_costly_nodes_are_on_the_gpu(text: Path, variant: str) -> None:
    placement = find_placements(text, provider="cuda", variant=variant)["text"]
    assert set(placement.on_cpu) <= SHAPES, placement
    assert placement.copies == 0, placement


# PointNet++ multiplies positions on the GPU by the number of points, which the CPU knows.
COPIES = {"pointnet-base": 1}


@pytest.mark.full
@pytest.mark.parametrize("backbone", BACKBONES)
def test_all_costly_nodes_of_a_backbone_are_on_the_gpu(backbone: str, tmp_path: Path) -> None:
    folder = export(backbone, output=tmp_path, options=ExportOptions(weights="random:0"))
    for placement in find_placements(folder, provider="cuda").values():
        assert set(placement.on_cpu) <= SHAPES, placement
        assert placement.copies == COPIES.get(backbone, 0), placement
    if backbone != "pointnet-base":  # it has a loop
        assert runtime.verify(folder, provider_options=runtime.CudaOptions(cuda_graphs=True)).provider == "cuda"


@pytest.mark.parametrize("items", [1, 3, 8, 32])
def test_float32_is_never_rounded_to_tf32(tmp_path: Path, items: int) -> None:
    """cuDNN chooses a kernel for each size of batch, and ONNX Runtime takes one with TF32 where it finds no other."""
    wide, depthwise = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 3, groups=64)
    layers = nn.Conv2d(3, 64, 7, stride=2), nn.ReLU(), wide, nn.ReLU(), depthwise, nn.Conv2d(64, 128, 1)
    pixels = TensorSpec(name="pixels", dtype="float32", shape=("batch", 3, 64, 64))
    output = TensorSpec(name="embedding", dtype="float32", shape=("batch", 128))
    graph_input = GraphInput(spec=pixels, example=torch.rand(2, 3, 64, 64))
    path, module = tmp_path / "image.onnx", nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    ir.save(build_graph(module, [graph_input], output), path)
    on_cpu, on_gpu = (open_graph(path, PROVIDERS[name], OPTIONS[name](), 1) for name in ("cpu", "cuda"))
    images = np.random.default_rng(items).random((items, 3, 64, 64), np.float32)
    expected, found = (session.run(None, {"pixels": images})[0] for session in (on_cpu, on_gpu))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_lattices_give_the_vectors_of_the_cpu(tmp_path: Path) -> None:
    """Many distances of a lattice are equal. CUDA does not promise which of them wins."""
    sizes = PointNetSizes(num_centroids=(32, 16), num_neighbors=(8, 8), hidden_dim=32, output_dim=16)
    points = TensorSpec(name="points", dtype="float32", shape=("batch", "num_points", 3))
    output = TensorSpec(name="embedding", dtype="float32", shape=("batch", 16))
    graph_input = GraphInput(spec=points, example=torch.rand(2, 100, 3))
    path = tmp_path / "mesh.onnx"
    ir.save(build_graph(PointNetEmbedding(sizes).eval(), [graph_input], output), path)
    on_cpu, on_gpu = (open_graph(path, PROVIDERS[name], OPTIONS[name](), 1) for name in ("cpu", "cuda"))
    for cells in (1, 2, 4, 8):
        clouds = np.random.default_rng(cells).integers(0, cells, (4, 300, 3)).astype(np.float32)
        expected, found = (session.run(None, {"points": clouds})[0] for session in (on_cpu, on_gpu))
        np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(runtime.ProviderError, match="operator Loop"):
        check_recordable(path)


@pytest.mark.skipif(find_provider_obstacle(PROVIDERS["tensorrt"]) is not None, reason="needs TensorRT's own libraries")
def test_tensorrt_compiles_one_engine_for_all_lengths(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path))
    expected = runtime.load(text, provider="cpu", variant="fp32").embed(TEXTS)
    model = runtime.load(text, provider="tensorrt")
    np.testing.assert_allclose(model.embed(TEXTS[:1]), expected[:1], atol=1e-4)
    engines = {path: path.stat().st_mtime_ns for path in (tmp_path / "tensorrt").rglob("*.engine")}
    assert engines
    np.testing.assert_allclose(model.embed(TEXTS), expected, atol=1e-4)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tensorrt").rglob("*.engine")} == engines
