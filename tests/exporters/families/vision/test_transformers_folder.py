from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from exporters.catalogue.names import find_model
from exporters.catalogue.options import ExportOptions
from exporters.errors import ParityError, WeightsError, WeightsMismatchError
from exporters.families.load import load_towers
from exporters.families.vision.processor import read_processor
from exporters.parity import check_reference
from runtime.artifact.reader import read_manifest
from tests.exporters.families.tried import record
from tests.exporters.families.vision.comparing import STATED, check_images, export, make_images, measure
from tests.exporters.families.vision.folders import SIDE, save_folder

GROUP = "Image encoders"
# The vector of an image, as the library's own documentation and heads take it.
CHOICES: dict[str, Callable[[Any], Tensor]] = {
    "pooler": lambda output: output.pooler_output.flatten(1),
    "cls": lambda output: output.last_hidden_state[:, 0],
    "projection": lambda output: output.image_embeds,
    "mean": lambda output: output.last_hidden_state.mean((2, 3)),
}
CASES = {
    "vit": "pooler",
    "vit classifier": "cls",
    "deit": "pooler",
    "dinov2": "pooler",
    "dinov3": "pooler",
    "convnext": "pooler",
    "swin": "pooler",
    "swinv2": "pooler",
    "beit": "pooler",
    "resnet": "pooler",
    "segformer": "mean",
    "clip vision": "projection",
    "siglip vision": "pooler",
    "timm in transformers": "pooler",
}
QUICK = ("vit classifier", "convnext", "timm in transformers")
SLOW = ("dinov3",)  # resizing of floats


def judge(folder: Path, choice: str, **processing: Any) -> Callable[[Image.Image], Tensor]:
    """Return transformers' own vector of an image. It is loaded anew, without a line of ours."""
    loader: Any = hf.CLIPVisionModelWithProjection if choice == "projection" else hf.AutoModel
    model = loader.from_pretrained(folder, dtype="float32").eval()
    auto: Any = hf.AutoImageProcessor
    processor = auto.from_pretrained(folder, backend="pil", **processing)
    return lambda image: CHOICES[choice](model(**processor(image, return_tensors="pt")))[0]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow if name in SLOW else pytest.mark.tried)
        for name in CASES
    ],
)
def test_vectors_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    folder = save_folder(name, tmp_path / name.replace(" ", "-"))
    artifact = export(folder, tmp_path)
    check_images(artifact, judge(folder, CASES[name]), GROUP, name, "transformers")
    manifest = read_manifest(artifact)
    tower = manifest.towers["image"]
    assert (manifest.architecture, tower.reference, tower.decided_by) == (
        json.loads((folder / "config.json").read_text())["model_type"],
        "transformers",
        "checkpoint",
    )
    assert tower.pooling.method == ("cls" if CASES[name] == "cls" else "model")
    assert tower.layers


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mobilevit", {}, "MobileViTImageProcessorPil does with .*do_flip_channel_order"),
        ("vit", {"do_resize": False}, "ViTImageProcessorPil"),
        ("vit", {"size": {"height": SIDE, "width": 32}}, "ViTImageProcessorPil .*'width': 32"),
        ("vit", {"size": {"longest_edge": SIDE, "shortest_edge": 32}}, "longest_edge"),
        ("clip vision", {"size": {"shortest_edge": SIDE + 8, "longest_edge": 20 * SIDE}}, "longest_edge"),
    ],
)
def test_refuses_a_processor_by_class_and_setting(name: str, changes: Any, message: str, tmp_path: Path) -> None:
    folder = save_folder(name, tmp_path / "model", **changes)
    with pytest.raises(WeightsError, match=message):
        export(folder, tmp_path)
    (tower,) = load_towers(find_model(str(folder)), ExportOptions(**STATED))
    assert tower.record.inputs[0].shape == ("batch", SIDE, SIDE, 3)
    if not changes:
        record(GROUP, name, "refused: channels in another order", library="transformers")


def test_refuses_missing_weights_and_a_missing_processor(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_folder("convnext", tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    state.pop(next(name for name in state if name.endswith("layernorm.weight")))
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsMismatchError, match="lacks 1 weights of its convnext"):
        export(folder, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match="holds no image processor"):
        export(folder, tmp_path)


def test_a_model_that_gives_nan_does_not_count_as_random(tmp_path: Path) -> None:
    folder = save_folder("vit", tmp_path / "model")
    weights = {
        name: torch.full_like(value, torch.nan) for name, value in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (tower,) = load_towers(find_model(str(folder)), ExportOptions())
    with pytest.raises(ParityError, match="hold NaN or infinity"):
        check_reference(tower.reference())


def test_refuses_a_model_that_masks_at_random(tmp_path: Path) -> None:
    folder = save_folder("vit", tmp_path / "model")
    settings: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    sizes: dict[str, Any] = {
        "image_size": SIDE,
        "patch_size": 16,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
    }
    with torch.random.fork_rng(devices=[]):
        hf.ViTMAEModel(hf.ViTMAEConfig(**settings, **sizes, decoder_num_attention_heads=2)).save_pretrained(folder)
    with pytest.raises(WeightsError, match="draws random numbers"):
        export(folder, tmp_path)
    record(GROUP, "vit_mae", "refused: it masks patches at random", library="transformers")


@pytest.mark.slow
def test_another_image_size_goes_through_the_library(tmp_path: Path) -> None:
    folder = save_folder("vit", tmp_path / "model")
    artifact = export(folder, tmp_path, image_size=96)
    model = hf.AutoModel.from_pretrained(folder, dtype="float32").eval()
    auto: Any = hf.AutoImageProcessor
    processor = auto.from_pretrained(folder, backend="pil", size={"height": 96, "width": 96})

    def expected(image: Image.Image) -> Tensor:
        vectors: Tensor = model(**processor(image, return_tensors="pt"), interpolate_pos_encoding=True).pooler_output
        return vectors[0]

    assert measure(artifact, "image", make_images(), expected) <= 2e-5
    with pytest.raises(WeightsError, match="does not take images of 80 x 80 pixels"):
        export(save_folder("clip vision", tmp_path / "clip"), tmp_path, image_size=80)


def test_transforms_of_timm_take_another_image_size(tmp_path: Path) -> None:
    folder = save_folder("timm in transformers", tmp_path / "model")
    _, preprocessing = read_processor(folder, "graph", 96)
    assert (preprocessing.crop_size, preprocessing.resize_size) == (96, 106)


def test_random_weights_need_only_the_configuration(tmp_path: Path) -> None:
    folder = save_folder("resnet", tmp_path / "model")
    (folder / "model.safetensors").unlink()
    weights = read_manifest(export(folder, tmp_path, weights="random:3")).weights
    assert (weights.origin, weights.seed, len(weights.sha256)) == ("random", 3, 64)


def test_code_beside_a_model_is_refused(tmp_path: Path) -> None:
    """Although transformers has a class of that name, whose weights fit."""
    folder = save_folder("vit", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "mine.Model"}}))
    with pytest.raises(WeightsError, match=r"brings code of its own \(auto_map in config\.json\)"):
        export(folder, tmp_path)


@pytest.mark.slow
def test_the_vector_of_a_cvt_is_its_class_token(tmp_path: Path) -> None:
    """Its last hidden state is a map, of which ``[:, 0]`` is a channel."""
    folder = save_folder("cvt classifier", tmp_path / "cvt")
    artifact = export(folder, tmp_path)
    loader: Any = hf.CvtForImageClassification
    model = loader.from_pretrained(folder, dtype="float32").eval()
    auto: Any = hf.AutoImageProcessor
    processor = auto.from_pretrained(folder, backend="pil")

    def expected(image: Image.Image) -> Tensor:
        token = model.cvt(**processor(image, return_tensors="pt")).cls_token_value
        vector: Tensor = model.layernorm(token).mean(dim=1)[0]
        return vector

    assert measure(artifact, "image", make_images(), lambda image: expected(image)[None]) < 2e-5
    assert read_manifest(artifact).output_dim == 16


def test_a_pooling_head_without_weights_is_not_used(tmp_path: Path) -> None:
    folder = save_folder("siglip vision", tmp_path / "siglip")
    state = load_file(folder / "model.safetensors")
    assert any(".head." in f".{name}" for name in state)
    kept = {name: value for name, value in state.items() if ".head." not in f".{name}"}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"has no weights for head\.\S+, by which the model pools"):
        export(folder, tmp_path)
