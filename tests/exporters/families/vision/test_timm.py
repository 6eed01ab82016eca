from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.data
import torch
from PIL import Image
from torch import Tensor, nn

from exporters.catalogue.names import find_model
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import HubModelSource
from exporters.errors import UnknownBackboneError, WeightsError, WeightsMismatchError, WeightsUnavailableError
from exporters.families.load import load_towers
from exporters.families.vision import timm_models
from exporters.weights.model_folder import describe_folder
from runtime.artifact.manifest import Weights
from runtime.artifact.reader import read_manifest
from tests.exporters.families.vision.comparing import STATED, check_images, export

GROUP = "Image encoders"
SIDE = 64
_VIT = {"img_size": SIDE, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4}
# Architecture, arguments of the model, and changes of its ``pretrained_cfg``.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", _VIT, {"crop_pct": 0.9}),
    "vit squash": ("vit_tiny_patch16_224", _VIT, {"crop_pct": 1.0, "crop_mode": "squash"}),
    "vit border": ("vit_tiny_patch16_224", _VIT, {"crop_pct": 0.85, "crop_mode": "border"}),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, {}),
    "resnet": ("resnet18", {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32)}, {"crop_pct": 0.95}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": SIDE, "window_size": 4, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 4)},
        {},
    ),
    "efficientnet": ("test_efficientnet", {}, {"crop_pct": 1.0, "interpolation": "bilinear"}),
}
QUICK = ("vit border", "resnet")


def save_folder(name: str, folder: Path, num_classes: int = 5) -> Any:
    """Let timm save a tiny model, and return it."""
    architecture, settings, config = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        overlay = {"input_size": (3, SIDE, SIDE), "num_classes": num_classes, **config}
        model: Any = timm.create_model(
            architecture, num_classes=num_classes, pretrained_cfg_overlay=overlay, **settings
        )
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.2, 0.5)
    model.eval()
    timm.models.save_for_hf(model, str(folder), model_args=settings)
    return model


def judge(model: Any) -> Callable[[Image.Image], Tensor]:
    data: Any = timm.data
    transforms = data.create_transform(**data.resolve_model_data_config(model), is_training=False)
    model.reset_classifier(0)
    return lambda image: model(transforms(image)[None])[0]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.tried) for name in CASES]
)
def test_vectors_equal_those_of_timm(name: str, tmp_path: Path) -> None:
    model = save_folder(name, tmp_path / name.replace(" ", "-"))
    artifact = export(tmp_path / name.replace(" ", "-"), tmp_path)
    check_images(artifact, judge(model), GROUP, f"timm {name}", "timm")
    manifest = read_manifest(artifact)
    assert (manifest.architecture, manifest.towers["image"].reference) == (CASES[name][0], "timm")


@pytest.mark.slow
def test_a_bare_state_dict_may_have_another_head(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        model: Any = timm.create_model("test_vit", num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    artifact = export("timm:test_vit", tmp_path, weights=str(tmp_path / "weights.pt"))
    check_images(artifact, judge(model), GROUP, "timm state dict", "timm")
    assert artifact.name == "test_vit"
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(WeightsMismatchError, match="unexpected"):
        export("timm:test_vit", tmp_path, weights=str(tmp_path / "weights.pt"))


def test_the_head_of_another_pooling_is_refused(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        model: Any = timm.create_model("test_efficientnet", num_classes=7, global_pool="catavgmax")
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(WeightsMismatchError, match=r"classifier\.weight for .*trained with another pooling.*a folder"):
        export("timm:test_efficientnet", tmp_path, weights=str(tmp_path / "weights.pt"))


@pytest.mark.tried
def test_published_weights_are_loaded_by_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng(devices=[]):
        model: Any = timm.create_model("test_vit").eval()
    timm.models.save_for_hf(model, str(tmp_path / "hub"))
    asked = []

    def find_folder(source: HubModelSource, options: ExportOptions) -> tuple[Path, Weights]:
        asked.append(source.model_id)
        return tmp_path / "hub", describe_folder(tmp_path / "hub", options.weights_ref)

    monkeypatch.setattr(timm_models, "find_folder", find_folder)
    artifact = export("timm:test_vit", tmp_path)
    check_images(artifact, judge(model), GROUP, "timm published weights", "timm")
    weights = read_manifest(artifact).weights
    assert (asked, weights.description) == (["timm/test_vit.r160_in1k"], "timm test_vit")
    assert weights.licence == "apache-2.0"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"input_size": [3, SIDE, SIDE // 2]}, "rectangular images"),
        ({"interpolation": "nearer"}, r"timm builds no image transforms from .*nearer.* state the whole"),
    ],
)
def test_a_model_without_usable_transforms_takes_stated_preprocessing(
    setting: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_folder("resnet", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["pretrained_cfg"] |= setting
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    spec = find_model(str(tmp_path / "model"))
    with pytest.raises(WeightsError, match=message):
        load_towers(spec, ExportOptions())
    (tower,) = load_towers(spec, ExportOptions(**STATED))
    assert tower.record.inputs[0].shape == ("batch", SIDE, SIDE, 3)


def test_refuses_what_timm_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(UnknownBackboneError, match="similar ones are convnext_atto"):
        export("timm:convnext_ato", tmp_path, weights="random")
    with pytest.raises(WeightsUnavailableError, match=r"timm has no weights resnet18\.nobody .*resnet18\.a1_in1k"):
        export("timm:resnet18.nobody", tmp_path)
    with pytest.raises(WeightsError, match="does not take images of 32 x 32 pixels"):
        export("timm:inception_v3", tmp_path, weights="random", image_size=32)
    save_folder("resnet", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="timm cannot load"):
        export(tmp_path / "model", tmp_path)
