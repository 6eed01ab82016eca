"""Two towers of a CLIP into one space, proven together."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import runtime
from exporters.catalogue.options import DEFAULT_TOLERANCE, ExportOptions
from exporters.catalogue.weights_ref import ModelFolder, ModelWeights, RandomInit
from exporters.errors import ParityError
from exporters.export_towers import export_towers
from exporters.families.clip.transformers_catalogue import load_clip
from exporters.parity import measure_similarity
from exporters.samples.texts import TEXTS
from runtime.artifact.manifest import seal
from runtime.artifact.reader import record_file
from runtime.errors import UsageError
from runtime.session import session
from tests.exporters.toys import CLIP, DIM, toy_spec

SPEC = toy_spec(CLIP)


@pytest.fixture(scope="module")
def artifact(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both towers of a CLIP in transformers' layout. Do not write in it."""
    towers = load_clip(CLIP, ModelFolder(folder), ExportOptions())
    return export_towers(SPEC, towers, tmp_path_factory.mktemp("out") / "toy", options=ExportOptions())


@pytest.fixture(scope="module")
def model(artifact: Path) -> runtime.Embedder:
    return runtime.load(artifact)


def reference(folder: Path, texts: list[str], photos: list[Image.Image]) -> tuple[Any, Any]:
    """transformers' own way, in one batch each."""
    clip = CLIPModel.from_pretrained(folder)
    tokenizer, processor = CLIPTokenizer.from_pretrained(folder), CLIPImageProcessorPil.from_pretrained(folder)
    with torch.inference_mode():
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
        images = clip.get_image_features(processor(photos, return_tensors="pt")["pixel_values"]).pooler_output
        return clip.get_text_features(**encoded).pooler_output.numpy(), images.numpy()


@pytest.mark.slow
def test_both_towers_embed_into_one_space(
    model: runtime.Embedder, folder: Path, photos: list[Image.Image], photo_paths: list[Path]
) -> None:
    texts, images = reference(folder, list(TEXTS), photos)
    assert (model.towers, model.output_dim) == (("text", "image"), DIM)
    np.testing.assert_allclose(model.embed_text(TEXTS), texts, atol=1e-5)
    np.testing.assert_allclose(model.embed_image(photo_paths), images, atol=1e-5)


@pytest.mark.slow
def test_the_items_tell_their_tower(model: runtime.Embedder, photo_paths: list[Path]) -> None:
    items: list[Any] = ["a cat", photo_paths[0], "a dog", photo_paths[1].read_bytes(), Image.open(photo_paths[2])]
    mixed = model.embed(items, batch_size=3)
    np.testing.assert_allclose(mixed[[0, 2]], model.embed_text(["a cat", "a dog"]), atol=1e-5)
    np.testing.assert_allclose(mixed[[1, 3, 4]], model.embed_image(photo_paths[:3]), atol=1e-5)


@pytest.mark.slow
def test_a_string_that_may_be_a_path_is_not_guessed(
    model: runtime.Embedder, photo_paths: list[Path], tmp_path: Path
) -> None:
    spaced = tmp_path / "my cat.jpg"
    shutil.copy(photo_paths[0], spaced)
    for path in (photo_paths[0], "none.PNG", spaced):
        with pytest.raises(runtime.ItemError, match=r"item 1 .*embed_image or embed_text"):
            model.embed(["a cat", str(path)])
    assert model.embed(["as in my dog.jpg"]).shape == (1, DIM)
    assert model.embed_image([str(photo_paths[0])]).shape == model.embed_text([str(photo_paths[0])]).shape == (1, DIM)


@pytest.mark.slow
def test_one_tower_can_be_loaded_alone(artifact: Path, model: runtime.Embedder) -> None:
    text = runtime.load(artifact, tower="text")
    assert text.towers == ("text",)
    np.testing.assert_array_equal(text.embed(["a cat"]), model.embed_text(["a cat"]))
    with pytest.raises(UsageError, match="no image tower; the artifact has text"):
        text.embed_image(["a.jpg"])
    with pytest.raises(UsageError, match="no mesh tower; the artifact has text and image"):
        runtime.load(artifact, tower="mesh")


@pytest.mark.slow
def test_the_manifest_tells_of_both(model: runtime.Embedder) -> None:
    text, image = (model.manifest.towers[name] for name in model.towers)
    assert (text.pooling.method, image.pooling.method) == ("eos", "cls")
    assert (text.graph, image.graph) == ("text.onnx", "image.onnx")
    assert text.projections[0].out_features == image.projections[0].out_features == DIM
    assert (text.normalized, image.normalized) == (False, False)
    assert model.manifest.similarity is not None
    assert (model.manifest.similarity.texts, model.manifest.similarity.images) == (len(TEXTS), 6)
    assert model.manifest.similarity.max_abs_error < 1e-5 < model.manifest.similarity.spread


@pytest.mark.slow
def test_verify_holds_both_towers_to_their_golden_vectors(artifact: Path) -> None:
    assert {name: tower.items for name, tower in runtime.verify(artifact).towers.items()} == {"text": 4, "image": 4}


@pytest.mark.slow
def test_one_tower_can_be_exported_alone(folder: Path, tmp_path: Path) -> None:
    options = ExportOptions(tower="image", normalize=True, input="float32")
    towers = load_clip(CLIP, ModelFolder(folder), options)
    exported = export_towers(SPEC, towers, tmp_path / "toy", options=options)
    assert sorted(path.name for path in exported.glob("*.onnx")) == ["image.onnx"]
    manifest = runtime.load(exported).manifest
    assert manifest.similarity is None
    assert manifest.towers["image"].inputs[0].name == "pixel_values"
    assert (manifest.towers["image"].normalized, manifest.towers["image"].decided_by) == (True, "user")


@pytest.mark.slow
def test_a_tower_of_another_model_is_stopped(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources: tuple[ModelWeights, ...] = (ModelFolder(folder), RandomInit(9))
    tower, other = (load_clip(CLIP, weights, ExportOptions(tower="image"))[0] for weights in sources)
    monkeypatch.setattr(tower, "module", other.module)
    with pytest.raises(ParityError):
        export_towers(SPEC, [tower], tmp_path / "toy", options=ExportOptions())


@pytest.mark.parametrize(
    ("angle", "common"),
    [(1e-3, 0), (5e-4, 100)],
    ids=["beyond max_error", "beyond the share of the spread"],
)
def test_similarities_that_differ_are_stopped(angle: float, common: int) -> None:
    """A ``common`` part of all vectors brings the similarities together. The images are turned by ``angle``."""
    rows = np.random.default_rng(0).normal(size=(2, 6, DIM)) + common
    references: Any = {"text": rows[0], "image": rows[1]}
    measured = measure_similarity(references, references, DEFAULT_TOLERANCE)
    assert (measured.texts, measured.images, measured.max_abs_error) == (6, 6, 0)
    turned = rows[1] + angle * np.linalg.norm(rows[1], axis=1, keepdims=True) * np.eye(DIM)[0]
    with pytest.raises(ParityError, match="similarities between texts and images"):
        measure_similarity({**references, "image": turned}, references, DEFAULT_TOLERANCE)


@pytest.mark.slow
def test_one_damaged_tower_fails_the_whole(artifact: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(artifact, tmp_path / "toy"))
    document = json.loads((copy / "manifest.json").read_text())
    document.pop("sha256")
    with np.load(copy / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["image_embedding"] = arrays["image_embedding"] + np.float32(0.1)
    np.savez(copy / "golden.npz", **arrays)
    document["files"]["golden.npz"] = dataclasses.asdict(record_file(copy / "golden.npz"))
    (copy / "manifest.json").write_text(json.dumps(document | {"sha256": seal(document)}))
    with pytest.raises(runtime.VerificationError, match="the golden vectors are not reproduced"):
        runtime.verify(copy)


@pytest.mark.slow
def test_the_second_tower_is_on_the_provider_of_the_first(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    load_session = session.Session.__init__

    def record(self: Any, path: Path, tower: Any, options: session.SessionOptions) -> None:
        asked.append(options.provider)
        load_session(self, path, tower, options)

    monkeypatch.setattr(session.Session, "__init__", record)
    runtime.load(artifact)
    assert asked == ["auto", "cpu"]


@pytest.mark.slow
def test_the_artifacts_readme_shows_both_towers(artifact: Path) -> None:
    text = (artifact / "README.md").read_text()
    assert 'model.embed_text(["a text", "another one"])  # [2, 24] float32' in text
    assert 'model.embed_image(["a.jpg", "b.jpg"])  # [2, 24] float32' in text
