"""Names of models: what each form of NAME stands for, and what its artifact is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters.catalogue.names import default_name, find_model
from exporters.catalogue.registry import BACKBONES
from exporters.catalogue.spec import (
    FolderSource,
    HubModelSource,
    NamedSource,
    OpenClipModelSource,
    TimmSource,
    TorchvisionModelSource,
)
from exporters.errors import UnknownBackboneError
from runtime.errors import UsageError


@pytest.mark.parametrize(
    ("name", "source", "artifact"),
    [
        ("intfloat/e5-small-v2", HubModelSource(model_id="intfloat/e5-small-v2"), "e5-small-v2"),
        ("timm:convnext_atto", TimmSource(model_name="convnext_atto"), "convnext_atto"),
        ("timm:vit_tiny_patch16_224.augreg_in21k", TimmSource(model_name="vit_tiny_patch16_224.augreg_in21k"), None),
        ("torchvision:vit_b_16", TorchvisionModelSource(builder="vit_b_16"), "vit_b_16"),
        ("open_clip:ViT-B-32", OpenClipModelSource(model_name="ViT-B-32"), "ViT-B-32"),
        (
            "open_clip:ViT-B-32/laion2b_s34b_b79k",
            OpenClipModelSource(model_name="ViT-B-32", tag="laion2b_s34b_b79k"),
            "ViT-B-32-laion2b_s34b_b79k",
        ),
    ],
)
def test_a_name_outside_the_catalogue(name: str, source: NamedSource, artifact: str | None) -> None:
    spec = find_model(name)
    assert (spec.name, spec.source) == (name, source)
    assert default_name(spec) == (artifact or name.partition(":")[2])


@pytest.mark.parametrize("name", BACKBONES)
def test_the_catalogue_comes_first(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_model(name) is BACKBONES[name]
    assert default_name(find_model(name)) == name


def test_a_folder_comes_before_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "someone" / "my model"
    folder.mkdir(parents=True)
    (tmp_path / "someone" / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_model("someone/tiny").source == FolderSource(path=Path("someone/tiny"))
    assert isinstance(find_model("someone/other").source, HubModelSource)
    spec = find_model(folder)
    assert (spec.name, default_name(spec)) == ("my model", "my-model")
    monkeypatch.chdir(folder)
    assert default_name(find_model(".")) == "my-model"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet-bas", "did you mean resnet-base"),
        ("nothing-like-it", r"its hub id such as sentence-transformers/all-MiniLM-L6-v2, or timm:NAME"),
        ("https://localhost/someone/model", "is a URI; give the hub id alone, such as sentence-transformers/"),
        ("./nowhere", r"there is no folder \./nowhere"),
        ("/a/b/c", "there is no folder /a/b/c"),
        ("timm:", "there is no backbone"),
        ("", "there is no backbone"),  # an empty path is the current folder
    ],
)
def test_an_unknown_name_says_which_there_are(name: str, message: str) -> None:
    with pytest.raises(UnknownBackboneError, match=message):
        find_model(name)


def test_a_file_is_not_a_name(tmp_path: Path) -> None:
    (tmp_path / "tuned.pth").touch()
    with pytest.raises(UsageError, match=r"is a file; name its architecture.*--weights .*tuned\.pth"):
        find_model(str(tmp_path / "tuned.pth"))


def test_a_revision_is_for_the_hub() -> None:
    source = find_model("someone/model", revision="v1.0").source
    assert source == HubModelSource(model_id="someone/model", revision="v1.0")
    with pytest.raises(UsageError, match="--revision is for models on the hub"):
        find_model("resnet-base", revision="v1.0")
