"""Models on the hub: the files that are needed, the cache without a network, and the error without both."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import exporters
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import FolderSource, HubModelSource
from exporters.errors import WeightsUnavailableError
from exporters.weights.hub import choose_files, download_tokenizer, find_folder
from runtime.artifact.reader import read_manifest
from tests.exporters.hub_cache import REVISION, add_to_cache, online
from tests.exporters.toys import save_clip, save_layers, save_toy


@pytest.fixture
def snapshot(hub: Path, tmp_path: Path) -> Path:
    """A model in the cache of the hub, and no network."""
    folder = save_layers(save_toy(tmp_path / "source"), ("Pooling", {"pooling_mode": "cls"}), limit=20)
    return add_to_cache(hub, "someone/tiny", folder)


@pytest.mark.slow
def test_a_hub_id_exports_from_the_cache(snapshot: Path, tmp_path: Path) -> None:
    folder = exporters.export("someone/tiny", output=tmp_path)
    manifest = read_manifest(folder)
    assert (folder.name, manifest.backbone, manifest.architecture) == ("tiny", "someone/tiny", "bert")
    weights = manifest.weights
    assert (weights.origin, weights.description, weights.revision) == ("pretrained", "hub someone/tiny", REVISION)
    assert manifest.towers["text"].pooling.method == "cls"


def test_a_revision_that_is_not_there_is_not_replaced_by_another(snapshot: Path) -> None:
    find_folder(HubModelSource(model_id="someone/tiny", revision=REVISION), ExportOptions())
    with pytest.raises(WeightsUnavailableError, match=r"cannot download someone/tiny .*the folder of a copy"):
        find_folder(HubModelSource(model_id="someone/tiny", revision="f" * 40), ExportOptions())


def test_without_network_and_cache_the_way_out_is_named(snapshot: Path) -> None:
    shutil.rmtree(snapshot)
    with pytest.raises(WeightsUnavailableError, match=r"cannot download someone/tiny .*the folder of a copy"):
        find_folder(HubModelSource(model_id="someone/tiny"), ExportOptions())


def test_settings_and_one_format_of_weights_are_needed() -> None:
    files = [
        *("config.json", "tokenizer.json", "spiece.model", "modeling.py", "README.md", "1_Pooling/config.json"),
        *("model.safetensors", "pytorch_model.bin", "2_Dense/pytorch_model.bin", "2_Dense/config.json"),
        *("onnx/model.onnx", "openvino/openvino_model.bin", "tf_model.h5", "model.gguf", "rust_model.ot"),
    ]
    chosen = [
        *("config.json", "tokenizer.json", "spiece.model", "README.md", "1_Pooling/config.json"),
        *("model.safetensors", "2_Dense/pytorch_model.bin", "2_Dense/config.json"),
    ]
    assert choose_files(files, code=False) == chosen
    assert set(choose_files(files, code=True)) == {*chosen, "modeling.py"}
    assert not any("model." in name for name in choose_files(files, code=False, weights=False))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with files that the exporter leaves out."""
    folder = save_layers(save_toy(tmp_path / "source"), ("Pooling", {"pooling_mode": "cls"}))
    (folder / "pytorch_model.bin").write_bytes(b"the same weights, pickled")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"a graph")
    return folder


@pytest.mark.parametrize("revision", [None, "main", "v1", REVISION])
def test_a_model_exports_again_without_a_network(revision: str | None, hub: Path, model: Path) -> None:
    source = HubModelSource(model_id="someone/tiny", revision=revision)
    with online(model):
        first, weights = find_folder(source, ExportOptions())
    assert weights.revision == REVISION
    assert not (first / "pytorch_model.bin").exists()
    assert find_folder(source, ExportOptions()) == (first, weights)
    (first / "1_Pooling" / "config.json").unlink()
    with pytest.raises(WeightsUnavailableError, match="cannot download someone/tiny"):
        find_folder(source, ExportOptions())


def test_a_downloaded_model_has_its_tokenizer_too(hub: Path, model: Path) -> None:
    with online(model):
        folder, _ = find_folder(HubModelSource(model_id="someone/tiny"), ExportOptions())
    assert download_tokenizer("someone/tiny", None, settings=True) == folder


def test_files_of_two_commits_are_not_mixed(hub: Path, model: Path) -> None:
    with online(model, newer="f" * 40), pytest.raises(WeightsUnavailableError, match=r"new commit .*export it again"):
        find_folder(HubModelSource(model_id="someone/tiny"), ExportOptions())


def test_a_cache_that_may_hold_only_a_part_is_refused(hub: Path, tmp_path: Path) -> None:
    """transformers and other programs download single files, without those that state the pooling."""
    folder, source = save_toy(tmp_path / "source"), HubModelSource(model_id="someone/tiny")
    add_to_cache(hub, "someone/tiny", folder, listed=False)
    with pytest.raises(WeightsUnavailableError, match=r"only a part .*connect to the hub once; .*folder of a copy"):
        find_folder(source, ExportOptions())
    with pytest.raises(WeightsUnavailableError, match=r"only a part .*--tokenizer"):
        download_tokenizer("someone/tiny", None, settings=True)
    download_tokenizer("someone/tiny", None)
    find_folder(FolderSource(path=folder), ExportOptions())
    missing = hub / "models--someone--tiny" / ".no_exist" / REVISION / "modules.json"
    missing.parent.mkdir(parents=True)
    missing.touch()  # as the client records that the hub has no such file
    find_folder(source, ExportOptions())


def test_a_cache_without_a_listing_is_enough_where_nothing_is_assumed(hub: Path, tmp_path: Path) -> None:
    layers = save_layers(save_toy(tmp_path / "text"), ("Pooling", {"pooling_mode": "cls"}))
    for model_id, folder in {"someone/layers": layers, "someone/clip": save_clip(tmp_path / "clip")}.items():
        snapshot = add_to_cache(hub, model_id, folder, listed=False)
        assert find_folder(HubModelSource(model_id=model_id), ExportOptions())[0] == snapshot
