"""CLIPs of open_clip, whose text tower is an encoder of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

import runtime
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.weights_ref import ModelFolder, Pretrained, RandomInit, StateDict
from exporters.errors import WeightsError, WeightsMismatchError, WeightsUnavailableError
from exporters.export_towers import export_towers
from exporters.families.clip.open_clip_catalogue import build_open_clip, load_open_clip
from exporters.families.clip.transformers_catalogue import load_clip
from exporters.families.image_tower import ImageTower
from exporters.samples.texts import TEXTS
from exporters.weights.stand_in_tokenizer import build_stand_in_tokenizer
from runtime.errors import UsageError
from runtime.preprocess.image import pixel_values, resize_and_crop
from tests.exporters.hub_cache import add_to_cache
from tests.exporters.toys import CLIP, OPEN_CLIP, OPEN_CLIP_CONFIG, SIDE, save_clip_tokenizer, toy_spec

HARD = (
    "&amp;lt;b&gt; caf\u00c3\u00a9 \u201cquoted\u201d \ufb01nd",
    "  many   spaces \n here ",
    "<pad> </s> <|endoftext|>",
    "",
)


@pytest.mark.parametrize("size", [(300, 200), (101, 333), (70, 70), (64, 64), (65, 200), (640, 481)])
def test_preprocessing_is_that_of_the_library(folder: Path, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    for tower in load_images(folder):
        ours = pixel_values(resize_and_crop(Image.fromarray(noise), tower.preprocessing), tower.preprocessing)
        np.testing.assert_allclose(ours, tower.transforms(Image.fromarray(noise)), atol=1e-6)


def load_images(folder: Path) -> list[ImageTower]:
    """Return an image tower of each library."""
    options = ExportOptions(tower="image")
    towers = [*load_clip(CLIP, ModelFolder(folder), options), *load_open_clip(OPEN_CLIP, RandomInit(), options)]
    return [tower for tower in towers if isinstance(tower, ImageTower)]


@pytest.fixture(autouse=True)
def _open_clip_knows_the_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, OPEN_CLIP.model_name, OPEN_CLIP_CONFIG)


def save_xlm_tokenizer(folder: Path) -> Path:
    build_stand_in_tokenizer("xlm-roberta", 512).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_open_clip_exports_and_cleans_texts_as_open_clip_does(tmp_path: Path, photos: list[Image.Image]) -> None:
    towers = load_open_clip(OPEN_CLIP, RandomInit(5), ExportOptions())
    model = runtime.load(export_towers(toy_spec(CLIP), towers, tmp_path / "toy", options=ExportOptions()))
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
        load_open_clip(OPEN_CLIP, Pretrained(), ExportOptions())
    theirs = build_open_clip(OPEN_CLIP, 5)
    (tmp_path / "model").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "model" / "open_clip_pytorch_model.bin")
    add_to_cache(hub, "someone/toy-open-clip", tmp_path / "model")
    with pytest.raises(WeightsUnavailableError, match=r"someone/toy-xlm-roberta .*--tokenizer"):
        load_open_clip(OPEN_CLIP, Pretrained(), ExportOptions())
    load_open_clip(OPEN_CLIP, Pretrained(), ExportOptions(tower="image"))
    add_to_cache(hub, OPEN_CLIP.tokenizer_id, save_xlm_tokenizer(tmp_path / "tokenizer"))
    _, image = load_open_clip(OPEN_CLIP, Pretrained(), ExportOptions())
    assert (image.weights.revision, image.weights.file) == ("toy", "open_clip_pytorch_model.bin")
    assert torch.equal(image.state_dict()["proj"], theirs.visual.proj)


def test_an_open_clip_checkpoint_from_a_file(tmp_path: Path) -> None:
    theirs = build_open_clip(OPEN_CLIP, 5)
    state_dict = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    state_dict["module.text.transformer.embeddings.position_ids"] = torch.arange(130)[None]  # as older versions have
    torch.save({"state_dict": state_dict, "epoch": 3}, tmp_path / "epoch_3.pt")
    options = ExportOptions(tokenizer=save_xlm_tokenizer(tmp_path / "tokenizer"))
    _, image = load_open_clip(OPEN_CLIP, StateDict(tmp_path / "epoch_3.pt"), options)
    assert torch.equal(image.state_dict()["proj"], theirs.visual.proj)


def test_a_tokenizer_that_is_not_needed_is_wrong_usage(folder: Path) -> None:
    with pytest.raises(UsageError, match="these weights have one"):
        load_open_clip(OPEN_CLIP, RandomInit(), ExportOptions(tokenizer=folder))
    for weights in (RandomInit(), ModelFolder(folder)):
        with pytest.raises(UsageError, match="these weights have one"):
            load_clip(CLIP, weights, ExportOptions(tokenizer=folder))


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    torch.save(build_open_clip(OPEN_CLIP, 5).state_dict(), tmp_path / "clip.pt")
    options = ExportOptions(tokenizer=save_clip_tokenizer(tmp_path / "tokenizer"))
    with pytest.raises(WeightsMismatchError, match="use the tokenizer of that model"):
        load_open_clip(OPEN_CLIP, StateDict(tmp_path / "clip.pt"), options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="holds no tokenizer"):
        load_open_clip(OPEN_CLIP, StateDict(tmp_path / "clip.pt"), ExportOptions(tokenizer=tmp_path / "empty"))


def test_recipes_of_the_two_libraries_differ_in_the_rounding_of_the_crop(folder: Path) -> None:
    assert [tower.preprocessing.crop_rounding for tower in load_images(folder)] == ["floor", "half_even"]
