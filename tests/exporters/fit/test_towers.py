"""CNNs, CLIPs and PointNet++ are fine-tuned by the same trainer, and exported with their proof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

import runtime
from exporters import ExportOptions, export
from exporters.catalogue.names import find_model
from exporters.catalogue.spec import BackboneSpec, CnnSource
from exporters.catalogue.weights_ref import StateDict
from exporters.cli.main import main
from exporters.errors import TrainingDataError, WeightsError
from exporters.families.cnn.torchvision import load as load_cnn
from exporters.families.cnn.tower import Cnn, CnnTower
from exporters.families.family import LoadRequest
from exporters.families.load import load_towers
from exporters.families.pointnet.network import PointNetEmbedding
from exporters.families.pointnet.tower import PointNet, PointNetTower
from exporters.families.tower import ExportableTower
from exporters.fit import learner as learner_module
from exporters.fit.learner import TowerLearner, load_learner
from exporters.fit.options import FitOptions
from exporters.fit.run import fit
from runtime.artifact.manifest import TowerName, Weights
from runtime.errors import UsageError
from tests.conftest import TINY_DIM
from tests.exporters.families.test_pointnet import TOY
from tests.exporters.fit.toy_data import write_photos, write_shapes
from tests.exporters.toys import save_clip

FAST = FitOptions(epochs=3, batch_size=8, learning_rate=1e-2, device="cpu")
RANDOM = Weights(origin="random", description="random, seed 0", seed=0, sha256="0" * 64)

LoadTowers = Callable[[list[ExportableTower]], None]


@pytest.fixture
def load_instead(monkeypatch: pytest.MonkeyPatch) -> LoadTowers:
    """Let the trainer load toys instead of networks of real size."""
    return lambda towers: monkeypatch.setattr(learner_module, "load_towers", lambda *_, **__: towers)


def make_pointnet() -> PointNetTower:
    torch.manual_seed(0)
    pointnet = PointNet(model=PointNetEmbedding(TOY).eval(), num_points=96, weights=RANDOM)
    return PointNetTower(pointnet, ExportOptions())


@pytest.mark.slow
def test_a_cnn_learns_folders_of_classes(tiny_cnn: Cnn, load_instead: LoadTowers, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 8)
    load_instead([CnnTower(tiny_cnn, ExportOptions(), output_dim=TINY_DIM)])
    done = fit(
        "resnet-base",
        tmp_path / "photos",
        output=tmp_path,
        artifact_name="mine",
        options=replace(FAST, val_split=0.4, output_dim=6, epochs=8),
    )
    assert done.report.after["map@100"] > done.report.before["map@100"]
    photo = str(tmp_path / "photos" / "red" / "0.png")
    vectors = runtime.load(done).embed([photo, str(tmp_path / "photos" / "blue" / "0.png")])
    assert vectors.shape == (2, 6)
    manifest = runtime.load(done).manifest
    assert (manifest.weights.file, manifest.weights.origin) == ("mine.safetensors", "file")


def test_the_checkpoint_of_a_cnn_with_a_new_layer_is_read_as_weights(
    tiny_cnn: Cnn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ExportOptions()
    tower = CnnTower(tiny_cnn, options, output_dim=TINY_DIM).with_projection(nn.Linear(TINY_DIM, 6), options)
    learner = TowerLearner(BackboneSpec(name="tiny"), [tower], options)
    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter.add_(0.01)
    photo = tower.items()[0]
    file = learner.save(tmp_path / "mine")
    source = CnnSource(builder="resnet18", head="fc")

    def build(source: Any, weights: Any, image_size: Any) -> Cnn:
        assert not any(name.startswith("projection") for name in weights.state_dict)
        model = type(tiny_cnn.model)()
        model.load_state_dict(weights.state_dict)
        return replace(tiny_cnn, model=model.eval(), weights=weights.record)

    monkeypatch.setattr("exporters.families.cnn.torchvision.load_cnn", build)
    request = LoadRequest(source=source, output_dim=TINY_DIM, options=ExportOptions(weights=str(file)))
    (again,) = load_cnn(request, StateDict(file))
    assert again.output_dim == 6
    with torch.inference_mode():
        torch.testing.assert_close(again.embed(photo), tower.embed(photo))


def test_a_move_to_another_device_does_not_lose_the_statistics(tiny_cnn: Cnn) -> None:
    options, features = ExportOptions(), cast(Any, tiny_cnn.model).features
    learner = TowerLearner(BackboneSpec(name="tiny"), [CnnTower(tiny_cnn, options, output_dim=TINY_DIM)], options)
    module: Any = learner.model[0]
    for name, buffer in list(module.networks.named_buffers()):  # as a move to a GPU does
        parent, _, last = name.rpartition(".")
        module.networks.get_submodule(parent)._buffers[last] = buffer.clone() + 1
    before = features[1].running_mean.clone()
    module.return_to_model()
    torch.testing.assert_close(features[1].running_mean, before + 1)


def test_statistics_of_trained_weights_stay(tiny_cnn: Cnn) -> None:
    trained = replace(tiny_cnn, weights=replace(RANDOM, origin="file", seed=None, file="x.pt"))
    for cnn, learns in ((tiny_cnn, True), (trained, False)):
        options = ExportOptions()
        learner = TowerLearner(BackboneSpec(name="tiny"), [CnnTower(cnn, options, output_dim=TINY_DIM)], options)
        learner.model.train()
        norms = [module for module in learner.model.modules() if isinstance(module, nn.BatchNorm2d)]
        assert [norm.training for norm in norms] == [learns]


@pytest.mark.tried
def test_any_image_encoder_is_trained_with_pairs_of_images(tmp_path: Path) -> None:
    captions = write_photos(tmp_path / "photos", 4)
    pairs = [{"a": one["image"], "b": other["image"]} for one, other in zip(captions[::2], captions[1::2], strict=True)]
    done = fit(
        "timm:test_vit",
        pairs,
        output=tmp_path,
        options=replace(FAST, lora=2, epochs=1),
        export_options=ExportOptions(weights="random"),
    )
    assert done.artifact.name == "test_vit-fit"
    again = export("timm:test_vit", output=tmp_path / "again", options=ExportOptions(weights=str(done.checkpoint)))
    photos = [row["a"] for row in pairs]
    np.testing.assert_allclose(runtime.load(again).embed(photos), runtime.load(done).embed(photos), atol=1e-5)


@pytest.mark.parametrize(
    "exported", [False, pytest.param(True, marks=pytest.mark.tried)], ids=["trained alone", "exported"]
)
def test_a_clip_learns_captions(exported: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exported:
        monkeypatch.setattr(learner_module, "export_towers", lambda *_, **__: tmp_path)
    folder, captions = save_clip(tmp_path / "clip"), write_photos(tmp_path / "photos", 6)
    chosen = ExportOptions(weights=str(folder))
    done = fit(
        "clip-base-en",
        captions[::2],
        captions[1::2],
        output=tmp_path,
        artifact_name="mine",
        options=replace(FAST, epochs=3, learning_rate=3e-3),
        export_options=chosen,
    )
    assert done.report.loss == "clip"
    assert done.report.after["mrr@10"] > done.report.before["mrr@10"]
    if exported:
        assert runtime.load(done).towers == ("text", "image")
    with pytest.raises(TrainingDataError, match="this model takes text,image"):
        fit("clip-base-en", [{"item": "x", "label": "y"}], output=tmp_path / "other", export_options=chosen)


@pytest.mark.parametrize("tower", [None, "image"])
def test_the_checkpoint_of_a_model_in_a_folder_is_read_as_weights(tower: TowerName | None, tmp_path: Path) -> None:
    spec = find_model(str(save_clip(tmp_path / "clip")))
    learner = cast(TowerLearner, load_learner(spec, ExportOptions(), FAST))
    with torch.no_grad():
        learner.head()[-1].mul_(2)  # the projection of images
    checkpoint = learner.save(tmp_path / "mine")
    image = load_towers(spec, ExportOptions(weights=str(checkpoint), tower=tower))[-1]
    assert image.weights.file == "mine.safetensors"
    before = load_towers(spec, ExportOptions(tower="image"))[0]
    torch.testing.assert_close(image.embed(image.items()[0]), 2 * before.embed(before.items()[0]))


def test_only_the_projections_of_a_frozen_clip_are_trained(tmp_path: Path) -> None:
    options = ExportOptions(weights=str(save_clip(tmp_path / "clip")))
    learner = load_learner(find_model("clip-base-en"), options, replace(FAST, freeze=True))
    names = [name for name, parameter in learner.model.named_parameters() if parameter.requires_grad]
    assert sorted(name.split(".")[-2] for name in names) == ["text_projection", "visual_projection"]
    with pytest.raises(UsageError, match="--output-dim adds a layer to"):
        load_learner(find_model("clip-base-en"), options, replace(FAST, output_dim=8))


def test_models_of_open_clip_are_refused() -> None:
    with pytest.raises(WeightsError, match="graph holds copies of its weights, so it cannot be trained here"):
        learner_module._check_trainable(find_model("open_clip:ViT-B-32"), [])


@pytest.mark.slow
def test_pointnet_learns_the_layout_of_modelnet40(
    load_instead: LoadTowers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "ModelNet40", "train", 8, seed=0)
    write_shapes(tmp_path / "ModelNet40", "test", 4, seed=1)
    load_instead([make_pointnet()])
    command = "fit pointnet-base ModelNet40/*/train --eval ModelNet40/*/test --name shapes --weights random"
    assert main([*command.split(), "--batch-size", "12", "--epochs", "4", "--learning-rate", "5e-3"]) == 0
    assert "24 rows of labels, loss triplet-hard" in capsys.readouterr().out
    meshes = sorted(map(str, Path("ModelNet40").glob("*/test/*.off")))
    vectors = runtime.load("artifacts/shapes").embed(meshes)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit @ unit.T - 2 * np.eye(len(meshes))
    nearest = [Path(meshes[best]).parts[1] for best in scores.argmax(axis=1)]
    assert np.mean([Path(path).parts[1] == label for path, label in zip(meshes, nearest, strict=True)]) > 0.8


def test_unreadable_images_are_named(tiny_cnn: Cnn, load_instead: LoadTowers, tmp_path: Path) -> None:
    rows = [{"item": row["image"], "label": row["text"][:5]} for row in write_photos(tmp_path / "photos", 2)]
    Path(rows[3]["item"]).write_bytes(b"no image")
    load_instead([CnnTower(tiny_cnn, ExportOptions(), output_dim=TINY_DIM)])
    with pytest.raises(TrainingDataError, match=r"1 bad rows:\n  row 4: '.*1\.png' is unusable"):
        fit("resnet-base", rows, output=tmp_path)
