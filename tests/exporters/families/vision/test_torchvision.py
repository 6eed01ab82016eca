from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.models import get_model, get_model_weights

from exporters.errors import UnknownBackboneError, WeightsError
from exporters.families.vision import torchvision_models
from runtime.artifact.reader import read_manifest
from tests.exporters.families.tried import record
from tests.exporters.families.vision.comparing import check_images, export

GROUP = "Image encoders"
# The module whose input is the embedding, by torchvision's source.
HEADS = {"mobilenet_v3_small": "classifier.3", "regnet_y_400mf": "fc", "vit_b_16": "heads.head", "swin_t": "head"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "mobilenet_v3_small" else pytest.mark.tried)
        for name in HEADS
    ],
)
def test_vectors_are_the_input_of_the_head(name: str, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model: Any = get_model(name, weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    artifact = export(f"torchvision:{name}", tmp_path, weights=str(tmp_path / "weights.pt"))
    transforms = get_model_weights(name)["DEFAULT"].transforms()

    def expected(image: Image.Image) -> Tensor:
        captured: list[Tensor] = []
        head = model.get_submodule(HEADS[name])
        hook = head.register_forward_pre_hook(lambda _, arguments: captured.append(arguments[0]))
        model(transforms(image)[None])
        hook.remove()
        return captured[0][0]

    check_images(artifact, expected, GROUP, f"torchvision {name}", "torchvision")
    assert read_manifest(artifact).towers["image"].layers == (f"input of torchvision's {HEADS[name]}",)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_only_the_published_weights_say_whether_pixels_are_scaled_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = get_model(name, weights=None, init_weights=False)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=r"scales the pixels of its own weights once more \(transform_input\)"):
        export(f"torchvision:{name}", tmp_path, weights=str(tmp_path / "weights.pt"))
    built: list[Any] = []

    def stop(model: Any, *_: Any) -> None:
        built.append(model)
        raise WeightsError("no network")

    monkeypatch.setattr(torchvision_models, "load_pretrained", stop)
    with pytest.raises(WeightsError, match="no network"):
        export(f"torchvision:{name}", tmp_path)
    assert built[0].transform_input is True


def test_refuses_a_model_without_a_linear_head(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="SqueezeNet has no linear classification head"):
        export("torchvision:squeezenet1_1", tmp_path, weights="random")
    record(GROUP, "torchvision squeezenet1_1", "refused: no linear head", library="torchvision")
    with pytest.raises(UnknownBackboneError, match="similar ones are vit_b_16"):
        export("torchvision:vit_b16", tmp_path, weights="random")
