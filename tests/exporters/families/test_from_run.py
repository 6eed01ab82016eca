"""Finetuner runs become towers: their pooler, projection head and names are kept."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet50
from transformers import PreTrainedTokenizerFast

import runtime
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.registry import BACKBONES
from exporters.errors import WeightsError, WeightsMismatchError
from exporters.export_towers import export_towers
from exporters.families.clip.open_clip_catalogue import build_open_clip
from exporters.families.load import load_towers
from exporters.families.pointnet.network import PointNetEmbedding
from exporters.families.sentence.tower import SentenceTower
from exporters.families.tower import ExportableTower
from exporters.fit import learner as learner_module
from exporters.fit.learner import load_learner
from exporters.fit.options import FitOptions
from exporters.progress import silent
from runtime.errors import UsageError
from tests.exporters.toys import (
    BERT,
    CLIP,
    DIM,
    OPEN_CLIP,
    OPEN_CLIP_CONFIG,
    RUN_METADATA,
    bert_run_weights,
    make_bert,
    make_clip,
    save_clip_tokenizer,
    save_layers,
    save_toy,
    toy_spec,
    write_run,
    zip_folder,
)

SPEC = toy_spec(BERT)


def options(weights: Path, **changes: Any) -> ExportOptions:
    return replace(ExportOptions(weights=str(weights)), **changes)


def clip_options(run: Path, **changes: Any) -> ExportOptions:
    return options(run, tokenizer=save_clip_tokenizer(run.parent / "tokenizer"), **changes)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_a_text_run_exports_with_its_own_pooler(packed: bool, run: Path, tokenizer: Path, tmp_path: Path) -> None:
    weights = zip_folder(run) if packed else run
    chosen = options(weights, tokenizer=tokenizer)
    (tower,) = load_towers(SPEC, chosen)
    assert (tower.record.pooling.method, tower.record.decided_by) == ("cls", "checkpoint")
    assert (tower.weights.origin, tower.weights.description) == ("file", "Finetuner run my-run, model toy")
    if not packed:
        return
    model = runtime.load(export_towers(SPEC, [tower], tmp_path / "out", options=chosen))
    with torch.inference_mode():
        encoded = PreTrainedTokenizerFast.from_pretrained(tokenizer)(["a cat"], return_tensors="pt")
        expected = make_bert()(**encoded).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(model.embed(["a cat"]), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options_", "pooling"),
    [
        ({"pooler": "max", "pooler_options": None}, ("max", None, None)),
        ({"pooler": "mean"}, ("mean", None, None)),
        ({"pooler": "GeM", "pooler_options": {"p": 2, "eps": 1e-4}}, ("gem", 2.0, 1e-4)),
        ({"pooler": "GeM", "pooler_options": {}}, ("gem", 3.0, 1e-6)),
        ({}, ("mean", None, None)),
        (None, ("mean", None, None)),
    ],
)
def test_every_pooler_is_known(options_: Any, pooling: tuple[Any, ...], tmp_path: Path, tokenizer: Path) -> None:
    run = write_run(tmp_path / "run", {"toy": (RUN_METADATA | {"options": options_}, bert_run_weights())})
    (tower,) = load_towers(SPEC, options(run, tokenizer=tokenizer))
    record = tower.record.pooling
    assert (record.method, record.p, record.eps) == pooling


def make_head() -> nn.Sequential:
    """A projection head as Finetuner's, after some training."""
    torch.manual_seed(1)
    layers = [nn.Linear(2048, 2048, bias=False), nn.BatchNorm1d(2048), nn.ReLU()]
    head = nn.Sequential(*layers, nn.Linear(2048, 16, bias=False), nn.BatchNorm1d(16))
    head(torch.rand(8, 2048))
    return head.eval()


@pytest.mark.slow
def test_a_cnn_run_keeps_its_pooling_head_and_preprocessing(tmp_path: Path, photos: list[Image.Image]) -> None:
    network, head = resnet50().eval(), make_head()
    network.fc = nn.Identity()
    state_dict = {f"embed_model.{name}": value for name, value in network.state_dict().items()}
    state_dict |= {f"projection_head.head_layers.{name}": value for name, value in head.state_dict().items()}
    metadata = {"name": "resnet50", "descriptor": "resnet50", "options": {"pooler": None}, "output_dim": 16}
    run = write_run(tmp_path / "run", {"resnet50": (metadata, state_dict)})
    (tower,) = load_towers(BACKBONES["resnet-base"], options(run))
    (small,) = load_towers(BACKBONES["resnet-base"], options(run, image_size=96))
    assert small.record.preprocessing.graph_inputs()[0].shape == ("batch", 96, 96, 3)
    other = write_run(tmp_path / "other", {"resnet50": (metadata | {"output_dim": 17}, state_dict)})
    with pytest.raises(WeightsMismatchError, match="states 17 dimensions and has layers for 16"):
        load_towers(BACKBONES["resnet-base"], options(other))
    assert (tower.output_dim, tower.record.decided_by) == (16, "checkpoint")
    assert [(layer.out_features, layer.bias, layer.activation) for layer in tower.record.projections] == [
        (2048, True, "relu"),
        (16, True, "identity"),
    ]
    assert tower.record.preprocessing.kind == "image"
    assert (tower.record.preprocessing.resize, tower.record.preprocessing.crop_size) == ("squash", 224)
    squashed = [np.asarray(photo.resize((224, 224), Image.Resampling.BICUBIC), np.float32) / 255 for photo in photos]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = torch.from_numpy(((np.stack(squashed) - mean) / std).transpose(0, 3, 1, 2)).float()
    with torch.inference_mode():
        expected = head(network(pixels)).numpy()
    np.testing.assert_allclose(tower.reference(), expected, rtol=1e-3, atol=1e-4)


def test_a_learned_gem_exponent_is_kept(tmp_path: Path) -> None:
    state_dict = {name: value for name, value in resnet50().state_dict().items() if not name.startswith("fc.")}
    metadata = {"name": "resnet50", "options": {"pooler": "GeM", "pooler_options": {"p": 3, "eps": 1e-5}}}
    learned = {"avgpool.p": torch.tensor([2.75])}
    run = write_run(tmp_path / "run", {"resnet50": (metadata, state_dict | learned)})
    (tower,) = load_towers(BACKBONES["resnet-base"], options(run))
    assert (tower.record.pooling.method, tower.record.pooling.p, tower.record.pooling.eps) == ("gem", 2.75, 1e-5)
    assert tower.output_dim == 2048


def test_a_pointnet_run_may_hold_the_classifier_it_never_used(tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = PointNetEmbedding()
    leftover = {f"_point_encoder.{name}.bias": torch.zeros(4) for name in ("fc1", "bn1", "fc2", "bn2")}
    metadata = {"name": "pointnet++", "descriptor": "pointnet++", "options": {}}
    run = write_run(tmp_path / "run", {"pointnet": (metadata, model.state_dict() | leftover)})
    (tower,) = load_towers(BACKBONES["pointnet-base"], options(run))
    name = "_projector.model.3.bias"
    assert torch.equal(tower.module().state_dict()[f"model.{name}"], model.state_dict()[name])


def test_two_models_without_a_selection_are_refused(clip_run: Path) -> None:
    with pytest.raises(WeightsError, match=r"clip-text and clip-vision; choose one by --select-model, or both"):
        load_towers(toy_spec(CLIP), clip_options(clip_run))
    with pytest.raises(WeightsError, match=r"holds clip-text and clip-vision, not clip-audio"):
        load_towers(toy_spec(CLIP), clip_options(clip_run, select_model="clip-audio"))


@pytest.mark.parametrize(
    ("choice", "towers"),
    [
        ({"select_model": "clip-text"}, ["text"]),
        ({"select_model": "clip-vision"}, ["image"]),
        ({"tower": "image"}, ["image"]),
        ({"select_model": "both"}, ["text", "image"]),
    ],
)
def test_the_selected_models_become_towers(choice: dict[str, Any], towers: list[str], clip_run: Path) -> None:
    makes = clip_options if "text" in towers else options
    chosen = load_towers(toy_spec(CLIP), makes(clip_run, **choice))
    assert [tower.name for tower in chosen] == towers
    expected = make_clip().state_dict()
    for tower in chosen:
        for name, value in tower.state_dict().items():
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("clip-text", {"resize": "70"}, "only the text tower is exported, and --resize is for images"),
        ("clip-vision", {}, "only the image tower is exported, and --tokenizer is for texts"),
    ],
)
def test_an_option_for_the_other_model_of_a_run_is_refused(
    model: str, changes: dict[str, Any], message: str, clip_run: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        load_towers(toy_spec(CLIP), clip_options(clip_run, select_model=model, **changes))


def test_what_a_clip_run_has_too_much_is_listed(tmp_path: Path, clip_run: Path) -> None:
    place = next(clip_run.rglob("clip-text")) / "model.pt"
    torch.save(torch.load(place) | {"strange.weight": torch.zeros(1)}, place)
    with pytest.raises(WeightsMismatchError, match=r"1 unexpected \(strange\.weight\)"):
        load_towers(toy_spec(CLIP), clip_options(clip_run, select_model="clip-text"))


def test_of_each_open_clip_model_its_own_half_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from exporters.weights.stand_in_tokenizer import build_stand_in_tokenizer

    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, OPEN_CLIP.model_name, OPEN_CLIP_CONFIG)
    build_stand_in_tokenizer("xlm-roberta", 512).save_pretrained(tmp_path / "tokenizer")
    whole = {name: build_open_clip(OPEN_CLIP, seed) for name, seed in (("clip-text", 1), ("clip-vision", 2))}
    run = write_run(
        tmp_path / "run",
        {
            name: ({"name": name, "options": {}}, {f"_model.{key}": value for key, value in model.state_dict().items()})
            for name, model in whole.items()
        },
    )
    text, image = load_towers(toy_spec(OPEN_CLIP), options(run, select_model="both", tokenizer=tmp_path / "tokenizer"))
    weight = text.module().state_dict()["encoder.text.proj.0.weight"]
    assert torch.equal(weight, whole["clip-text"].text.proj[0].weight)
    assert torch.equal(image.module().state_dict()["backbone.proj"], whole["clip-vision"].visual.proj)
    assert text.output_dim == image.output_dim == DIM


def test_a_run_of_another_backbone_says_which(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"m": ({"name": "bert-base-cased"}, {"a": torch.zeros(1)})})
    with pytest.raises(WeightsMismatchError, match=r"from bert-base-cased, not .*; export it as bert-base-en, not"):
        load_towers(BACKBONES["bert-base-multi"], options(run))


def test_a_head_of_another_kind_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    run = write_run(
        tmp_path / "run", {"toy": (RUN_METADATA, bert_run_weights() | {"head.0.weight": torch.zeros(3, 3, 3)})}
    )
    with pytest.raises(WeightsMismatchError, match=r"has head\.0\.weight behind its backbone"):
        load_towers(SPEC, options(run, tokenizer=tokenizer))


def test_a_head_whose_layers_do_not_fit_each_other_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    for head in (
        {"head.0.weight": torch.zeros(3, 32), "head.1.weight": torch.zeros(2, 4)},
        {"head.0.weight": torch.zeros(3, 32), **{f"head.1.{k}": v for k, v in nn.BatchNorm1d(4).state_dict().items()}},
    ):
        run = write_run(tmp_path / f"run{len(head)}", {"toy": (RUN_METADATA, bert_run_weights() | head)})
        with pytest.raises(WeightsMismatchError, match="expected a projection head"):
            load_towers(SPEC, options(run, tokenizer=tokenizer))


def test_a_models_own_folder_is_a_run_too(run: Path, tokenizer: Path) -> None:
    (tower,) = load_towers(SPEC, options(run / "models" / "toy", tokenizer=tokenizer))
    assert tower.record.pooling.method == "cls"


def test_two_ways_of_selecting_are_one_too_many(clip_run: Path) -> None:
    with pytest.raises(UsageError, match="both select a model of the run"):
        load_towers(toy_spec(CLIP), options(clip_run, select_model="clip-text", tower="image"))


def test_of_the_tokenizers_folder_of_a_run_only_the_tokenizer_counts(run: Path, tmp_path: Path) -> None:
    folder = save_toy(tmp_path / "toy")
    save_layers(folder, ("Pooling", {"pooling_mode": "max"}), ("Normalize", None), limit=20)
    (tower,) = load_towers(SPEC, options(run, tokenizer=folder))
    assert isinstance(tower, SentenceTower)
    assert (tower.record.layers, tower.record.normalized) == (("Pooling: cls",), False)
    assert tower.preprocessing.max_length == 64


def test_the_tokenizer_of_a_run_is_named_by_its_own_folder(run: Path, tmp_path: Path) -> None:
    folder = save_toy(tmp_path / "toy")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["x.Y", None]}}))
    with pytest.raises(WeightsError, match=rf"^{re.escape(str(folder))} brings code of its own"):
        load_towers(SPEC, options(run, tokenizer=folder))


def test_a_text_run_of_other_weights_lists_them(tmp_path: Path, tokenizer: Path) -> None:
    weights = bert_run_weights() | {"_model.strange.weight": torch.zeros(1)}
    run = write_run(tmp_path / "run", {"toy": (RUN_METADATA, weights)})
    with pytest.raises(WeightsMismatchError, match=r"toy.model\.pt does not .*1 unexpected \(.*strange\.weight"):
        load_towers(SPEC, options(run, tokenizer=tokenizer))


@pytest.mark.parametrize("pooler", ["mean", "GeM"])
def test_the_head_of_a_text_run_is_applied_and_trained_alone(
    pooler: str, tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = {"projection_head.weight": torch.rand(5, 32), "projection_head.bias": torch.rand(5)}
    metadata = RUN_METADATA | {"options": {"pooler": pooler, "pooler_options": None}}
    run = write_run(tmp_path / "run", {"toy": (metadata, bert_run_weights() | head)})
    chosen = options(run, tokenizer=tokenizer, select_model="toy")
    (tower,) = load_towers(SPEC, chosen)
    assert isinstance(tower, SentenceTower)
    assert (tower.output_dim, tower.record.layers[1]) == (5, "Dense: 32 to 5, Identity")
    learner = load_learner(SPEC, chosen, FitOptions(freeze=True))
    trained = [name for name, parameter in learner.model.named_parameters() if parameter.requires_grad]
    assert trained == ["2.linear.weight", "2.linear.bias"]
    texts = ["a cat", "a much longer text about something else"]
    vectors = np.stack([tower.embed(text).numpy() for text in texts])
    np.testing.assert_allclose(learner.model.eval().encode(texts), vectors, atol=1e-5)  # in one batch
    checkpoint = learner.save(tmp_path / "mine")
    again: list[ExportableTower] = []
    monkeypatch.setattr(learner_module, "export", lambda *_, options, **__: again.extend(load_towers(SPEC, options)))
    learner.export(checkpoint, tmp_path / "out", silent)
    assert again[0].record.pooling == tower.record.pooling
    np.testing.assert_allclose(again[0].reference(), tower.reference(), atol=1e-6)
