"""Finetuner's run artifacts: their pooler, projection head and names honoured, and nothing in them trusted."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet50

import runtime
from exporters import finetuner as surface
from exporters.catalogue.registry import BACKBONES
from exporters.catalogue.spec import ExportOptions
from exporters.errors import DestinationError, UnknownBackboneError, WeightsError, WeightsMismatchError
from exporters.export_towers import export_towers
from exporters.families.clip.open_clip import build_open_clip
from exporters.families.load import load_towers
from exporters.families.pointnet.network import PointNetEmbedding
from exporters.families.transformer.huggingface import load_transformer
from exporters.weights import archive
from exporters.weights import finetuner_run as finetuner
from exporters.weights.finetuner_run import combine_records, is_run, read_run
from exporters.weights.projection_head import read_head
from runtime.errors import UsageError
from tests.exporters.toys import (
    BERT,
    CLIP,
    DIM,
    OPEN_CLIP,
    OPEN_CLIP_CONFIG,
    make_clip,
    save_clip_tokenizer,
    save_toy,
    to_bytes,
    toy_spec,
    write_run,
    zip_folder,
)

TEXT = {"name": "toy", "descriptor": "toy", "options": {"pooler": "cls", "pooler_options": None}, "output_dim": None}
SPEC = toy_spec(BERT)


def bert() -> dict[str, Tensor]:
    """A state dict as a run of a text model has it."""
    state_dict = load_transformer(BERT, "random:7").model.state_dict()
    return {f"_model.{name}": value for name, value in state_dict.items() if "pooler" not in name}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy(tmp_path_factory.mktemp("tokenizer") / "toy")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "my-run", {"toy": (TEXT, bert())})


def options(weights: Path, **changes: Any) -> ExportOptions:
    return replace(ExportOptions(weights=str(weights)), **changes)


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
    theirs = load_transformer(BERT, "random:7")
    with torch.inference_mode():
        encoded = tower.encode(["a cat"])  # type: ignore[attr-defined]
        expected = theirs.model(**encoded).last_hidden_state[:, 0].numpy()
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
    run = write_run(tmp_path / "run", {"toy": (TEXT | {"options": options_}, bert())})
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


@pytest.fixture
def clip_run(tmp_path: Path) -> Path:
    """A run of a CLIP, whose halves were tuned apart."""
    state_dict = make_clip().state_dict()
    halves = {"clip-text": ("text_model.", "text_projection."), "clip-vision": ("vision_model.", "visual_projection.")}
    models: dict[str, tuple[Mapping[str, Any], Mapping[str, Tensor]]] = {}
    for name, (encoder, projection) in halves.items():
        renamed = {key.replace(encoder, "_model."): value for key, value in state_dict.items() if encoder in key}
        renamed |= {key.replace(projection, "_projection."): v for key, v in state_dict.items() if projection in key}
        metadata = {"name": name, "descriptor": "someone/toy-clip", "options": {"pooler": None}}
        models[f"openai/{name}"] = (metadata, renamed)
    return write_run(tmp_path / "clip-run", models)


def clip_options(run: Path, **changes: Any) -> ExportOptions:
    return options(run, tokenizer=save_clip_tokenizer(run.parent / "tokenizer"), **changes)


def test_two_models_without_a_selection_are_refused(clip_run: Path) -> None:
    with pytest.raises(WeightsError, match=r"clip-text and clip-vision; name one by --select-model, or take both"):
        load_towers(toy_spec(CLIP), clip_options(clip_run))
    with pytest.raises(WeightsError, match=r"no model clip-audio, but clip-text and clip-vision"):
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
    chosen = load_towers(toy_spec(CLIP), clip_options(clip_run, **choice))
    assert [tower.name for tower in chosen] == towers
    expected = make_clip().state_dict()
    for tower in chosen:
        for name, value in tower.module().state_dict().items():
            original = name.removeprefix("encoder.").removeprefix("backbone.")
            assert torch.equal(value, expected.get(original, value)), name


def test_what_a_clip_run_has_too_much_is_listed(tmp_path: Path, clip_run: Path) -> None:
    place = next(clip_run.rglob("clip-text")) / "model.pt"
    torch.save(torch.load(place) | {"strange.weight": torch.zeros(1)}, place)
    with pytest.raises(WeightsMismatchError, match=r"1 unexpected \(strange\.weight\)"):
        load_towers(toy_spec(CLIP), clip_options(clip_run, select_model="clip-text"))


def test_of_each_open_clip_model_its_own_half_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from exporters.weights.stand_in_tokenizer import random_tokenizer

    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, OPEN_CLIP.model_name, OPEN_CLIP_CONFIG)
    random_tokenizer("xlm-roberta", 512).save_pretrained(tmp_path / "tokenizer")
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
    run = write_run(tmp_path / "run", {"toy": (TEXT, bert() | {"head.0.weight": torch.zeros(3, 3, 3)})})
    with pytest.raises(WeightsMismatchError, match=r"has head\.0\.weight behind its backbone"):
        load_towers(SPEC, options(run, tokenizer=tokenizer))


def test_a_head_whose_layers_do_not_fit_each_other_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    for head in (
        {"head.0.weight": torch.zeros(3, 32), "head.1.weight": torch.zeros(2, 4)},
        {"head.0.weight": torch.zeros(3, 32), **{f"head.1.{k}": v for k, v in nn.BatchNorm1d(4).state_dict().items()}},
    ):
        run = write_run(tmp_path / f"run{len(head)}", {"toy": (TEXT, bert() | head)})
        with pytest.raises(WeightsMismatchError, match="no projection head"):
            load_towers(SPEC, options(run, tokenizer=tokenizer))


def test_layers_are_taken_in_the_order_of_their_numbers() -> None:
    head = {f"head.{index}.weight": torch.full((1, 1), float(index)) for index in range(12)}
    assert [float(layer.weight.item()) for _, layer in read_head(head, "run")] == list(range(12))


def test_both_models_are_in_the_hash(clip_run: Path) -> None:
    models = read_run(clip_run, "both")
    assert combine_records(models).sha256 != combine_records([models[0], models[0]]).sha256
    assert combine_records(models).description == "Finetuner run clip-run, model clip-text and clip-vision"


def test_a_models_own_folder_is_a_run_too(run: Path, tokenizer: Path) -> None:
    (tower,) = load_towers(SPEC, options(run / "models" / "toy", tokenizer=tokenizer))
    assert tower.record.pooling.method == "cls"


def test_two_ways_of_selecting_are_one_too_many(clip_run: Path) -> None:
    with pytest.raises(UsageError, match="not by both"):
        load_towers(toy_spec(CLIP), clip_options(clip_run, select_model="clip-text", tower="image"))


def test_a_linear_head_behind_a_text_model_is_taken(tmp_path: Path, tokenizer: Path) -> None:
    head = {"projection_head.weight": torch.rand(5, 32), "projection_head.bias": torch.rand(5)}
    run = write_run(tmp_path / "run", {"toy": (TEXT, bert() | head)})
    (tower,) = load_towers(SPEC, options(run, tokenizer=tokenizer))
    assert (tower.output_dim, tower.record.projections[0].activation) == (5, "identity")


def test_what_is_no_run_is_told_apart(tmp_path: Path, run: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    assert not is_run(tmp_path / "a.pt"), "a checkpoint is a zip, too"
    assert not is_run(save_toy(tmp_path / "toy"))
    assert is_run(run)
    assert is_run(zip_folder(run))


def _in_zip(name: str, content: bytes, run: Path) -> Path:
    path = zip_folder(run)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, content)
    return path


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("__import__('pathlib').Path('evil').touch()",)


def _replace(file: str, content: bytes) -> Callable[[Path], Path]:
    def damage(run: Path) -> Path:
        next(run.rglob(file)).write_bytes(content)
        return zip_folder(run)

    return damage


def _remove(file: str) -> Callable[[Path], Path]:
    def damage(run: Path) -> Path:
        (run / "models" / "toy" / file).unlink()
        return zip_folder(run)

    return damage


def _flip(run: Path) -> Path:
    path = zip_folder(run)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    return path


def _as_graph(run: Path) -> Path:
    (run / "models" / "toy" / "model.pt").rename(run / "models" / "toy" / "model.onnx")
    return run


def _truncate(run: Path) -> Path:
    path = zip_folder(run)
    path.write_bytes(path.read_bytes()[:1000])
    return path


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "is damaged or cannot be read"),
        (_flip, "damaged"),
        (lambda run: _in_zip("../evil", b"", run), r"leaves the archive"),
        (lambda run: _in_zip("/evil", b"", run), r"leaves the archive"),
        (lambda run: _in_zip("a\\..\\..\\evil", b"", run), r"leaves the archive"),
        (_replace("model.pt", pickle.dumps(_Evil())), "cannot be read"),
        (_replace("model.pt", to_bytes([1])), "no state dict"),
        (_remove("model.pt"), "holds no model"),
        (_remove("metadata.yml"), "holds no model"),
        (_as_graph, r"model\.onnx.*to_onnx=False"),
        (lambda run: _replace_metadata(run, b"{"), "is no YAML"),
        (lambda run: _replace_metadata(run, b"!!python/object/apply:os.system ['touch evil']"), "is no YAML"),
        (lambda run: _replace_metadata(run, b"[1]"), "states no name"),
        (lambda run: _replace_metadata(run, b"name: x\n" + b"#" * 2**20), "larger than"),
        (lambda run: _replace_metadata(run, b"name: x\noptions: {pooler: sum}"), "pooled by 'sum'"),
        (lambda run: _replace_metadata(run, b"name: x\noptions: 3"), "is not of the form"),
        (
            lambda run: _replace_metadata(run, b"name: x\noptions: {pooler: GeM, pooler_options: 3}"),
            "is not of the form",
        ),
        (lambda run: _replace_metadata(run, b"name: x\noptions: {pooler: GeM, pooler_options: {p: x}}"), "of the form"),
        (lambda run: _replace_metadata(run, b"name: x\noptions: {pooler: GeM, pooler_options: {p: 0}}"), "of the form"),
        (
            lambda run: _replace_metadata(run, b"name: x\npreprocess_options: {image: {height: 2, width: 3}}"),
            "squares alone",
        ),
    ],
)
def test_a_run_that_cannot_be_right_is_refused(
    damage: Callable[[Path], Path], message: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=message):
        read_run(damage(run), None)
    assert not list(tmp_path.rglob("evil")), "something in the archive was run, or left its folder"


def _replace_metadata(run: Path, content: bytes) -> Path:
    (run / "models" / "toy" / "metadata.yml").write_bytes(content)
    return zip_folder(run)


def test_a_model_larger_than_any_is_not_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuner, "_MODEL_BYTES", 1000)
    for path in (run, zip_folder(run)):
        with pytest.raises(WeightsError, match="larger than 1000 bytes"):
            read_run(path, None)


def test_thousands_of_files_are_not_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    with pytest.raises(WeightsError, match="far more than a run's artifact"):
        read_run(zip_folder(run), None)


def test_two_models_of_one_name_are_refused(run: Path) -> None:
    place = run / "models" / "again"
    place.mkdir()
    (place / "metadata.yml").write_text(yaml.safe_dump(TEXT))
    (place / "model.pt").write_bytes((run / "models" / "toy" / "model.pt").read_bytes())
    with pytest.raises(WeightsError, match="the same name"):
        read_run(run, "both")


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue of toys."""
    toys = {"toy-base-en": toy_spec(BERT, "toy-base-en"), "toy-clip-en": toy_spec(CLIP, "toy-clip-en")}
    monkeypatch.setattr("exporters.catalogue.registry.BACKBONES", toys)


@pytest.mark.usefixtures("catalogue")
def test_finetuners_words_export_a_run_once_and_load_it(run: Path, tokenizer: Path, tmp_path: Path) -> None:
    packed, chosen = zip_folder(run), ExportOptions(tokenizer=tokenizer)
    model = surface.get_model(packed, output=tmp_path / "out", options=chosen)
    vectors = surface.encode(model, ["a cat", "a dog"], batch_size=1)
    assert vectors.shape == (2, 32)
    again = surface.get_model(packed, device="cpu", output=tmp_path / "out", options=chosen)
    np.testing.assert_array_equal(surface.encode(again, ["a cat", "a dog"]), vectors)
    exported = surface.get_model(tmp_path / "out" / "my-run")
    assert surface.cos_sim(surface.encode(exported, ["a cat"])[0], vectors[0]) == pytest.approx(1)
    other = write_run(tmp_path / "other" / "my-run", {"toy": (TEXT, {k: v + 1 for k, v in bert().items()})})
    with pytest.raises(DestinationError, match="from another run"):
        surface.get_model(other, output=tmp_path / "out", options=chosen)


@pytest.mark.usefixtures("catalogue")
def test_finetuners_words_build_a_backbone_once(tmp_path: Path) -> None:
    random = ExportOptions(weights="random:2")
    model = surface.build_model("toy-clip-en", "clip-text", output=tmp_path, options=random)
    assert (model.towers, model.manifest.backbone) == (("text",), "toy-clip-en")
    assert model.manifest.name == "toy-clip-en-clip-text"
    again = surface.build_model("toy-clip-en", "clip-text", output=tmp_path, options=random)
    assert again.manifest == model.manifest
    with pytest.raises(DestinationError, match="with other weights"):
        surface.build_model("toy-clip-en", "clip-text", output=tmp_path, options=ExportOptions(weights="random:3"))
    with pytest.raises(UnknownBackboneError, match="there is no backbone 'toy'"):
        surface.build_model("toy", output=tmp_path)


def test_a_run_of_a_strange_backbone_names_the_way_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"toy": (TEXT | {"descriptor": "someone/strange"}, bert())})
    with pytest.raises(UnknownBackboneError, match=r"someone/strange.*exporters NAME --weights"):
        surface.get_model(run, output=tmp_path / "out")


def test_a_selection_is_for_runs() -> None:
    with pytest.raises(UsageError, match="--select-model is for Finetuner run artifacts"):
        load_towers(BACKBONES["clip-base-en"], ExportOptions(weights="random", select_model="clip-text"))
