"""CLIPs of transformers: what a folder or file must have, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from exporters.catalogue.names import find_model
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.registry import BACKBONES
from exporters.catalogue.spec import ClipSource
from exporters.catalogue.weights_ref import ModelFolder, Pretrained, StateDict
from exporters.errors import WeightsError, WeightsMismatchError, WeightsUnavailableError
from exporters.families.clip.transformers_catalogue import load_clip
from exporters.families.load import load_towers
from exporters.families.vision.tower import ImageModelTower
from runtime.preprocess.image import pixel_values, resize_and_crop
from tests.exporters.families.vision.comparing import STATED
from tests.exporters.hub_cache import add_to_cache
from tests.exporters.toys import CLIP, DIM, SIDE, make_clip, save_clip_tokenizer, save_toy, toy_spec


def test_an_image_processor_of_its_own_is_honoured(folder: Path, tmp_path: Path, photos: list[Image.Image]) -> None:
    checkpoint = Path(shutil.copytree(folder, tmp_path / "toy"))
    path = checkpoint / "preprocessor_config.json"
    own = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.25], "resample": 2}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    (tower,) = load_clip(CLIP, ModelFolder(checkpoint), ExportOptions(tower="image"))
    assert isinstance(tower, ImageModelTower)
    recipe = tower.preprocessing
    assert (recipe.mean, recipe.std, recipe.interpolation) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25), "bilinear")
    ours = pixel_values(resize_and_crop(photos[0], recipe), recipe)
    np.testing.assert_allclose(ours, tower.transforms(photos[0]), atol=1e-6)


@pytest.mark.slow
def test_a_tokenizer_too_large_for_a_clip_is_refused(folder: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(folder, tmp_path / "toy"))
    tokenizer = CLIPTokenizer.from_pretrained(checkpoint)
    tokenizer.add_tokens([f"new{index}" for index in range(50_000)])
    tokenizer.save_pretrained(checkpoint)
    with pytest.raises(WeightsMismatchError, match="embeddings for 49408"):
        load_clip(CLIP, ModelFolder(checkpoint), ExportOptions(tower="text"))


def test_position_ids_of_older_versions_are_left_alone(tmp_path: Path) -> None:
    state_dict = dict(make_clip().state_dict())
    state_dict["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state_dict["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save(state_dict, tmp_path / "clip.pt")
    options = ExportOptions(tokenizer=save_clip_tokenizer(tmp_path / "tokenizer"))
    load_clip(CLIP, StateDict(tmp_path / "clip.pt"), options)


@pytest.mark.parametrize("change", [{"do_center_crop": False}, {"size": {"shortest_edge": 69, "longest_edge": 900}}])
def test_an_image_processor_that_cannot_be_honoured_is_refused(
    change: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(folder, tmp_path / "toy")
    path = checkpoint / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(WeightsError, match="cannot prepare images as CLIPImageProcessorPil does"):
        load_clip(CLIP, ModelFolder(checkpoint), ExportOptions())
    stated = ExportOptions(tower="image", **STATED)
    for towers in (load_clip(CLIP, ModelFolder(checkpoint), stated), load_towers(find_model(str(checkpoint)), stated)):
        assert towers[0].record.inputs[0].shape == ("batch", SIDE, SIDE, 3)


def test_a_folder_without_image_processor_says_what_to_save(folder: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(folder, tmp_path / "toy")
    (checkpoint / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match="preprocessor_config"):
        load_clip(CLIP, ModelFolder(checkpoint), ExportOptions())
    (tower,) = load_clip(CLIP, ModelFolder(checkpoint), ExportOptions(tower="text"))
    assert tower.name == "text"


def test_a_checkpoint_of_another_family_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatchError, match="is a bert, expected a clip"):
        load_clip(CLIP, ModelFolder(save_toy(tmp_path / "bert")), ExportOptions())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_state_dict_needs_only_a_tokenizer(suffix: str, tmp_path: Path) -> None:
    state_dict = {f"module.{name}": value.clone() for name, value in make_clip().state_dict().items()}
    path = tmp_path / f"clip{suffix}"
    save_file(state_dict, path) if suffix == ".safetensors" else torch.save(state_dict, path)
    options = ExportOptions(tokenizer=save_clip_tokenizer(tmp_path / "tokenizer"))
    text, image = load_clip(CLIP, StateDict(path), options)
    expected = make_clip().state_dict()
    found = text.state_dict() | image.state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name
    assert (text.weights.origin, text.weights.file) == ("file", path.name)


def test_the_image_tower_needs_neither_a_tokenizer_nor_weights_of_texts(hub: Path, tmp_path: Path) -> None:
    half = {name: value for name, value in make_clip().state_dict().items() if not name.startswith("text_")}
    torch.save(half, tmp_path / "clip.pt")
    (tower,) = load_towers(toy_spec(CLIP), ExportOptions(weights=tmp_path / "clip.pt", tower="image"))
    assert (tower.name, tower.output_dim) == ("image", DIM)
    with pytest.raises(WeightsMismatchError, match=r"missing \(text_model"):
        load_towers(toy_spec(CLIP), ExportOptions(weights=tmp_path / "clip.pt", tower="text"))


def test_every_misfit_of_a_state_dict_is_listed(tmp_path: Path) -> None:
    state_dict = make_clip().state_dict()
    del state_dict["text_projection.weight"]
    torch.save(state_dict | {"extra": torch.zeros(1)}, tmp_path / "clip.pt")
    with pytest.raises(WeightsMismatchError, match=r"1 missing \(text_projection.weight\), 1 unexpected \(extra\)"):
        load_clip(CLIP, StateDict(tmp_path / "clip.pt"), ExportOptions(tokenizer=tmp_path))


def test_pretrained_weights_come_through_the_hubs_cache(hub: Path, folder: Path) -> None:
    options = ExportOptions(tower="image")
    add_to_cache(hub, CLIP.model_id, folder, "1" * 40)
    weights = load_clip(CLIP, Pretrained(), options)[0].weights
    assert (weights.origin, weights.revision, weights.licence) == ("pretrained", "1" * 40, "MIT")
    pinned = replace(CLIP, revision="2" * 40)
    with pytest.raises(WeightsUnavailableError, match=r"someone/toy-clip .*--weights FOLDER"):
        load_clip(pinned, Pretrained(), options)
    add_to_cache(hub, CLIP.model_id, folder, "2" * 40, as_main=False)
    assert load_clip(pinned, Pretrained(), options)[0].weights.revision == "2" * 40


@pytest.mark.parametrize("name", ["clip-base-en", "clip-large-en"])
def test_the_catalogues_dimensions_are_those_of_the_configuration(name: str) -> None:
    source = BACKBONES[name].source
    assert isinstance(source, ClipSource)
    assert BACKBONES[name].output_dim == source.projection_dim
