"""CLIPs of transformers and of open_clip: two towers into one space, proven together."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import runtime
from exporters.catalogue.options import DEFAULT_TOLERANCE, ExportOptions
from exporters.catalogue.registry import BACKBONES
from exporters.catalogue.spec import ClipSource
from exporters.catalogue.weights_ref import ModelFolder, Pretrained, RandomInit, StateDict
from exporters.errors import ParityError, WeightsError, WeightsMismatchError, WeightsUnavailableError
from exporters.export_towers import export_towers
from exporters.families.clip.huggingface import load_clip
from exporters.families.clip.open_clip import build_open_clip, load_open_clip
from exporters.families.clip.tower import Clip, build_clip_towers
from exporters.parity import measure_similarity
from exporters.samples.texts import TEXTS
from exporters.weights.stand_in_tokenizer import build_stand_in_tokenizer
from runtime.artifact.manifest import ImagePreprocessing, seal
from runtime.artifact.reader import record_file
from runtime.errors import UsageError
from runtime.preprocess.image import pixel_values, resize_and_crop
from runtime.session import session
from tests.exporters.toys import (
    CLIP,
    DIM,
    OPEN_CLIP,
    OPEN_CLIP_CONFIG,
    SIDE,
    make_clip,
    save_clip,
    save_clip_tokenizer,
    save_toy,
    toy_spec,
)

SPEC = toy_spec(CLIP)
HARD = (
    "&amp;lt;b&gt; caf\u00c3\u00a9 \u201cquoted\u201d \ufb01nd",
    "  many   spaces \n here ",
    "<pad> </s> <|endoftext|>",
    "",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip") / "toy")


@pytest.fixture(scope="module")
def artifact(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both towers of a CLIP in transformers' layout. Do not write in it."""
    towers = build_clip_towers(load_clip(CLIP, ModelFolder(folder)), ExportOptions())
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
    clip = load_clip(CLIP, ModelFolder(folder), arithmetic=options.arithmetic)
    exported = export_towers(SPEC, build_clip_towers(clip, options), tmp_path / "toy", options=options)
    assert sorted(path.name for path in exported.glob("*.onnx")) == ["image.onnx"]
    manifest = runtime.load(exported).manifest
    assert manifest.similarity is None
    assert manifest.towers["image"].inputs[0].name == "pixel_values"
    assert (manifest.towers["image"].normalized, manifest.towers["image"].decided_by) == (True, "user")


@pytest.mark.parametrize("size", [(300, 200), (101, 333), (70, 70), (64, 64), (65, 200), (640, 481)])
def test_preprocessing_is_that_of_the_library(folder: Path, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    for clip in (load_clip(CLIP, ModelFolder(folder)), load_open_clip(OPEN_CLIP, RandomInit())):
        recipe = clip.image.preprocessing
        ours = pixel_values(resize_and_crop(Image.fromarray(noise), recipe), recipe)
        np.testing.assert_allclose(ours, clip.image.transforms(Image.fromarray(noise)), atol=1e-6)


def _swap_towers(clip: Clip) -> Clip:
    """The image tower of another model: each tower is right, and together they are not."""
    other = load_clip(CLIP, RandomInit(9))
    return replace(clip, image=replace(clip.image, backbone=other.image.backbone))


@pytest.mark.slow
def test_a_tower_of_another_model_is_stopped(folder: Path, tmp_path: Path) -> None:
    towers = build_clip_towers(_swap_towers(load_clip(CLIP, ModelFolder(folder))), ExportOptions(tower="image"))
    with pytest.raises(ParityError):
        export_towers(SPEC, towers, tmp_path / "toy", options=ExportOptions())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "spread_to"),
    [(1e-3, 1.0), (5e-5, 1e-2)],
    ids=["beyond max_error", "beyond the share of the spread"],
)
def test_similarities_that_differ_are_stopped(
    error: float, spread_to: float, model: runtime.Embedder, photos: list[Image.Image]
) -> None:
    texts, images = model.embed_text(TEXTS), model.embed_image(photos)
    common = texts.mean(axis=0) * 100  # what all have in common brings the similarities together
    references: Any = {"text": texts, "image": images}
    if spread_to < 1:
        references = {name: rows + common for name, rows in references.items()}
    fake: Any = FakeModel(references)
    items: Any = {"text": TEXTS, "image": photos}
    measure_similarity(fake, items, references, DEFAULT_TOLERANCE)
    wrong: Any = FakeModel(references, turn=error)
    with pytest.raises(ParityError, match="similarities between texts and images"):
        measure_similarity(wrong, items, references, DEFAULT_TOLERANCE)


class FakeModel:
    """Embeds as the references say, the images turned towards one direction by an angle."""

    def __init__(self, references: dict[str, Any], turn: float = 0) -> None:
        self._references, self._turn = references, turn

    def embed(self, items: object, *, tower: str) -> Any:
        rows = self._references[tower].astype(np.float64)
        direction = np.zeros(DIM)
        direction[0] = 1
        turned = rows + self._turn * np.linalg.norm(rows, axis=1, keepdims=True) * direction
        return turned if tower == "image" else rows


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


def test_an_image_processor_of_its_own_is_honoured(folder: Path, tmp_path: Path, photos: list[Image.Image]) -> None:
    checkpoint = Path(shutil.copytree(folder, tmp_path / "toy"))
    path = checkpoint / "preprocessor_config.json"
    own = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.25], "resample": 2}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    clip = load_clip(CLIP, ModelFolder(checkpoint))
    recipe = clip.image.preprocessing
    assert (recipe.mean, recipe.std, recipe.interpolation) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25), "bilinear")
    ours = pixel_values(resize_and_crop(photos[0], recipe), recipe)
    np.testing.assert_allclose(ours, clip.image.transforms(photos[0]), atol=1e-6)


@pytest.mark.slow
def test_a_tokenizer_too_large_for_a_clip_is_refused(folder: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(folder, tmp_path / "toy"))
    tokenizer = CLIPTokenizer.from_pretrained(checkpoint)
    tokenizer.add_tokens([f"new{index}" for index in range(50_000)])
    tokenizer.save_pretrained(checkpoint)
    with pytest.raises(WeightsMismatchError, match="embeddings for 49408"):
        load_clip(CLIP, ModelFolder(checkpoint))


def test_position_ids_of_older_versions_are_left_alone(tmp_path: Path) -> None:
    state_dict = dict(make_clip().state_dict())
    state_dict["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state_dict["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save(state_dict, tmp_path / "clip.pt")
    load_clip(CLIP, StateDict(tmp_path / "clip.pt"), tokenizer=save_clip_tokenizer(tmp_path / "tokenizer"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_center_crop": False}, "leaves out"),
        ({"rescale_factor": 1 / 127}, "rescales by"),
        ({"size": {"height": 64, "width": 64}}, "resizes to"),
        ({"resample": 0}, "by filter"),
    ],
)
def test_an_image_processor_that_cannot_be_honoured_is_refused(
    change: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(folder, tmp_path / "toy")
    path = checkpoint / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(WeightsError, match=message):
        load_clip(CLIP, ModelFolder(checkpoint))


def test_a_folder_without_image_processor_says_what_to_save(folder: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(folder, tmp_path / "toy")
    (checkpoint / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match="preprocessor_config"):
        load_clip(CLIP, ModelFolder(checkpoint))


def test_a_checkpoint_of_another_family_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatchError, match="is a bert, expected a clip"):
        load_clip(CLIP, ModelFolder(save_toy(tmp_path / "bert")))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_state_dict_needs_only_a_tokenizer(suffix: str, tmp_path: Path) -> None:
    state_dict = {f"module.{name}": value.clone() for name, value in make_clip().state_dict().items()}
    path = tmp_path / f"clip{suffix}"
    save_file(state_dict, path) if suffix == ".safetensors" else torch.save(state_dict, path)
    clip = load_clip(CLIP, StateDict(path), tokenizer=save_clip_tokenizer(tmp_path / "tokenizer"))
    expected = make_clip()
    for name, value in clip.text.encoder.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name
    assert (clip.weights.origin, clip.weights.file) == ("file", path.name)


def test_every_misfit_of_a_state_dict_is_listed(tmp_path: Path) -> None:
    state_dict = make_clip().state_dict()
    del state_dict["text_projection.weight"]
    torch.save(state_dict | {"extra": torch.zeros(1)}, tmp_path / "clip.pt")
    with pytest.raises(WeightsMismatchError, match=r"1 missing \(text_projection.weight\), 1 unexpected \(extra\)"):
        load_clip(CLIP, StateDict(tmp_path / "clip.pt"), tokenizer=tmp_path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, in offline mode."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def cache(hub: Path, model_id: str, folder: Path, revision: str = "0" * 40) -> None:
    """Puts a folder into the hub's cache, in its own layout."""
    repository = hub / f"models--{model_id.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)


def test_pretrained_weights_come_through_the_hubs_cache(hub: Path, folder: Path) -> None:
    cache(hub, CLIP.model_id, folder, "1" * 40)
    weights = load_clip(CLIP, Pretrained()).weights
    assert (weights.origin, weights.revision, weights.licence) == ("pretrained", "1" * 40, "MIT")
    pinned = replace(CLIP, revision="2" * 40)
    with pytest.raises(WeightsUnavailableError, match=r"someone/toy-clip .*--weights FOLDER"):
        load_clip(pinned, Pretrained())
    cache_pinned = hub / "models--someone--toy-clip" / "snapshots" / ("2" * 40)
    shutil.copytree(folder, cache_pinned)
    assert load_clip(pinned, Pretrained()).weights.revision == "2" * 40


@pytest.mark.parametrize("name", ["clip-base-en", "clip-large-en"])
def test_the_catalogues_dimensions_are_those_of_the_configuration(name: str) -> None:
    source = BACKBONES[name].source
    assert isinstance(source, ClipSource)
    assert BACKBONES[name].output_dim == source.projection_dim


@pytest.fixture(autouse=True)
def _open_clip_knows_the_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, OPEN_CLIP.model_name, OPEN_CLIP_CONFIG)


def save_xlm_tokenizer(folder: Path) -> Path:
    build_stand_in_tokenizer("xlm-roberta", 512).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_open_clip_exports_and_cleans_texts_as_open_clip_does(tmp_path: Path, photos: list[Image.Image]) -> None:
    towers = build_clip_towers(load_open_clip(OPEN_CLIP, RandomInit(5)), ExportOptions())
    model = runtime.load(export_towers(SPEC, towers, tmp_path / "toy", options=ExportOptions()))
    theirs = build_open_clip(OPEN_CLIP, 5)
    tokenize = open_clip.tokenizer.HFTokenizer(str(save_xlm_tokenizer(tmp_path / "tokenizer")), context_length=77)
    texts = [*TEXTS, *HARD]
    with torch.inference_mode():
        expected = theirs.encode_text(tokenize(texts), normalize=True).numpy()
        transforms = open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(size=SIDE), is_train=False
        )
        images = theirs.encode_image(torch.stack([transforms(photo) for photo in photos]), normalize=True).numpy()
    np.testing.assert_allclose(model.embed_text(texts), expected, atol=1e-6)
    np.testing.assert_allclose(model.embed_image(photos), images, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(model.embed_text(texts), axis=1), 1, rtol=1e-6)
    text = model.manifest.towers["text"]
    assert (text.pooling.method, text.preprocessing.kind) == ("mean", "text")
    assert [layer.activation for layer in text.projections] == ["gelu", "identity"]


def test_open_clips_checkpoint_comes_through_the_hubs_cache(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {OPEN_CLIP.tag: {"hf_hub": "someone/toy-open-clip/"}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, OPEN_CLIP.model_name, entry)
    with pytest.raises(WeightsUnavailableError, match=r"toy-xlm-roberta-ViT, toy .*--weights PATH"):
        load_open_clip(OPEN_CLIP, Pretrained())
    theirs = build_open_clip(OPEN_CLIP, 5)
    (tmp_path / "model").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "model" / "open_clip_pytorch_model.bin")
    cache(hub, "someone/toy-open-clip", tmp_path / "model")
    with pytest.raises(WeightsUnavailableError, match=r"someone/toy-xlm-roberta .*--tokenizer"):
        load_open_clip(OPEN_CLIP, Pretrained())
    cache(hub, OPEN_CLIP.tokenizer_id, save_xlm_tokenizer(tmp_path / "tokenizer"))
    clip = load_open_clip(OPEN_CLIP, Pretrained())
    assert (clip.weights.revision, clip.weights.file) == ("toy", "open_clip_pytorch_model.bin")
    assert torch.equal(clip.image.backbone.state_dict()["proj"], theirs.visual.proj)


def test_an_open_clip_checkpoint_from_a_file(tmp_path: Path) -> None:
    theirs = build_open_clip(OPEN_CLIP, 5)
    state_dict = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    state_dict["module.text.transformer.embeddings.position_ids"] = torch.arange(130)[None]  # as older versions have
    torch.save({"state_dict": state_dict, "epoch": 3}, tmp_path / "epoch_3.pt")
    clip = load_open_clip(
        OPEN_CLIP, StateDict(tmp_path / "epoch_3.pt"), tokenizer=save_xlm_tokenizer(tmp_path / "tokenizer")
    )
    assert torch.equal(clip.image.backbone.state_dict()["proj"], theirs.visual.proj)


def test_a_tokenizer_that_is_not_needed_is_wrong_usage(folder: Path) -> None:
    with pytest.raises(UsageError, match="these weights have one"):
        load_open_clip(OPEN_CLIP, RandomInit(), tokenizer=folder)
    for weights in (RandomInit(), ModelFolder(folder)):
        with pytest.raises(UsageError, match="these weights have one"):
            load_clip(CLIP, weights, tokenizer=folder)


@pytest.mark.slow
def test_the_artifacts_readme_shows_both_towers(artifact: Path) -> None:
    text = (artifact / "README.md").read_text()
    assert 'model.embed_text(["a text", "another one"])  # [2, 24] float32' in text
    assert 'model.embed_image(["a.jpg", "b.jpg"])  # [2, 24] float32' in text


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    torch.save(build_open_clip(OPEN_CLIP, 5).state_dict(), tmp_path / "clip.pt")
    with pytest.raises(WeightsMismatchError, match="use the tokenizer of that model"):
        load_open_clip(
            OPEN_CLIP, StateDict(tmp_path / "clip.pt"), tokenizer=save_clip_tokenizer(tmp_path / "tokenizer")
        )
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="holds no tokenizer"):
        load_open_clip(OPEN_CLIP, StateDict(tmp_path / "clip.pt"), tokenizer=tmp_path / "empty")


def test_recipes_of_the_two_libraries_differ_in_the_rounding_of_the_crop(folder: Path) -> None:
    ours = [
        load_clip(CLIP, ModelFolder(folder)).image.preprocessing,
        load_open_clip(OPEN_CLIP, RandomInit()).image.preprocessing,
    ]
    assert [recipe.crop_rounding for recipe in ours] == ["floor", "half_even"]
    assert all(isinstance(recipe, ImagePreprocessing) for recipe in ours)
