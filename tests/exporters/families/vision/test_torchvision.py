from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from exporters.errors import UnknownBackboneError, WeightsError, WeightsMismatchError
from exporters.families.vision import torchvision_models
from exporters.weights import torchvision_hub
from exporters.weights.torchvision_hub import load_pretrained
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


def test_the_head_of_another_pooling_is_refused(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        model: Any = get_model("resnet18", weights=None)
        model.fc = nn.Linear(2 * model.fc.in_features, 3)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(WeightsMismatchError, match=r"fc\.weight for vectors of 1024 numbers, .* gives 512: .*pooling"):
        export("torchvision:resnet18", tmp_path, weights=str(tmp_path / "weights.pt"))


@pytest.mark.parametrize(("name", "head"), [("densenet121", "classifier"), ("mnasnet0_5", "classifier.1")])
def test_published_weights_of_older_versions_are_read(
    name: str, head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = get_model_weights(name)["DEFAULT"]
    with torch.random.fork_rng(devices=[]):
        model, theirs = (get_model(name, weights=None) for _ in range(2))
    expected = theirs.state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value for key, value in expected.items()}
    cached = tmp_path / "hub" / "checkpoints" / Path(published.url).name
    cached.parent.mkdir(parents=True)
    torch.save(old, cached)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    load_pretrained(model, name, head, published)
    for key, value in model.state_dict().items():
        assert key.startswith(head) or torch.equal(value, expected[key]), key


def test_weights_with_a_licence_of_their_own_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: {})
    monkeypatch.setattr(torchvision_hub, "load_into", lambda *_, **__: None)
    hash_of_name = lambda path: SimpleNamespace(sha256=path.stem.rpartition("-")[2])  # noqa: E731
    monkeypatch.setattr(torchvision_hub, "record_file", hash_of_name)
    own = set()
    for name in list_models(module=torchvision.models):
        published = get_model_weights(name)["DEFAULT"]
        licence = load_pretrained(nn.Identity(), name, "head", published).licence
        assert licence == published.meta.get("license", torchvision_hub.LICENCE)
        own |= {name} if licence != torchvision_hub.LICENCE else set()
    assert {"regnet_y_128gf", "vit_h_14"} <= own


def test_refuses_a_model_without_a_linear_head(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="SqueezeNet has no linear classification head"):
        export("torchvision:squeezenet1_1", tmp_path, weights="random")
    record(GROUP, "torchvision squeezenet1_1", "refused: no linear head", library="torchvision")
    with pytest.raises(UnknownBackboneError, match="similar ones are vit_b_16"):
        export("torchvision:vit_b16", tmp_path, weights="random")


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("vit_b_16", 33, "cannot build vit_b_16 for images of 33 pixels"),
        ("inception_v3", 32, "does not take images of 32 x 32 pixels"),
    ],
)
def test_a_size_that_the_model_does_not_take_is_named(name: str, side: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        export(f"torchvision:{name}", tmp_path, weights="random", image_size=side)
