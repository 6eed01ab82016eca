from __future__ import annotations

import json

import pytest
from torchvision.models import get_model_weights

import exporters
from exporters.catalogue import registry
from exporters.catalogue import tables as catalogue
from exporters.catalogue.registry import BACKBONES, find_backbone
from exporters.catalogue.spec import CnnSource, TimmSource
from exporters.cli.main import main
from runtime.artifact.manifest import TASKS
from runtime.errors import UsageError

# https://finetuner.jina.ai (2023), by way of the table that finetuner.describe_models() printed
FINETUNER_NAMES = (
    *(f"jina-embedding-{size}-en-v1" for size in "tsbl"),
    *("bert-base-en", "bert-base-multi", "distiluse-base-multi", "sbert-base-en"),
    *("efficientnet-base", "efficientnet-large", "resnet-large", "resnet-base"),
    *("clip-base-en", "clip-large-en", "clip-base-multi", "pointnet-base"),
)


def test_the_catalogue_begins_with_finetuners() -> None:
    assert tuple(BACKBONES)[: len(FINETUNER_NAMES)] == FINETUNER_NAMES
    assert all(spec.name == name for name, spec in BACKBONES.items())


@pytest.mark.parametrize("name", [name for name, spec in BACKBONES.items() if isinstance(spec.source, CnnSource)])
def test_pretrained_weights_state_their_hash(name: str) -> None:
    source = BACKBONES[name].source
    assert isinstance(source, CnnSource)
    weights = get_model_weights(source.builder)["DEFAULT"]
    assert len(weights.url.rsplit("-", 1)[1]) == len("01234567.pth")


def test_list_prints_every_name_under_the_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    header, _, *rows, _, others = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "task", "output_dim", "architecture", "description"]
    assert [row.split()[0] for row in rows] == list(BACKBONES)
    assert all(name in others for name in ("folder", "hub id", "timm:NAME", "torchvision:NAME", "open_clip:MODEL"))


@pytest.mark.parametrize("task", TASKS)
def test_list_filters_by_task(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--task", task, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [name for name, spec in BACKBONES.items() if spec.task == task]
    assert {"name", "task", "output_dim", "architecture", "description", "note"} <= rows[0].keys()
    assert all(row["exportable"] for row in rows)


def test_describe_models_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    exporters.describe_models(task="image-to-image")
    assert capsys.readouterr().out.strip() == catalogue.as_table("image-to-image")
    with pytest.raises(UsageError, match="text-to-text"):
        exporters.describe_models(task="image-to-smell")


@pytest.mark.parametrize(
    ("name", "hint"), [("resnet-bse", "resnet-base"), ("resnet50", "resnet-base"), ("zzz", "exporters list")]
)
def test_an_unknown_name_lists_the_close_ones(name: str, hint: str) -> None:
    with pytest.raises(exporters.UnknownBackboneError, match=hint):
        find_backbone(name)


def test_a_vision_transformer_may_be_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry._entry("vit-small", 384, "", TimmSource(model_name="vit_small_patch16_224"))
    assert (entry.task, entry.architecture) == ("image-to-image", "transformer")
    monkeypatch.setattr(registry, "BACKBONES", {entry.name: entry})
    assert registry.find_descriptor("someone/") is None, "Finetuner had no name for it"


@pytest.mark.parametrize("package", ["exporters", "runtime"])
def test_all_names_what_is_there(package: str) -> None:
    module = __import__(package)
    assert sorted(module.__all__) == module.__all__
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
