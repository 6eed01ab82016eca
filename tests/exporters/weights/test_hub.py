"""Models on the hub: the files that are needed, the cache without a network, and the error without both."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import exporters
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import HubModelSource
from exporters.errors import WeightsUnavailableError
from exporters.weights.hub import choose_files, find_folder
from runtime.artifact.reader import read_manifest
from tests.exporters.hub_cache import REVISION, add_to_cache
from tests.exporters.toys import save_layers, save_toy


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


def test_the_newest_commit_is_pinned_before_its_files_are_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise files of two commits could be mixed."""
    folder, calls = save_toy(tmp_path / REVISION), []
    siblings = [SimpleNamespace(rfilename=path.name) for path in folder.iterdir()]

    def download(model_id: str, revision: str, allow_patterns: list[str], **_: object) -> str:
        calls.append((model_id, revision, sorted(allow_patterns)))
        return str(folder)

    info = SimpleNamespace(sha=REVISION, siblings=siblings)
    monkeypatch.setattr("exporters.weights.hub.HfApi.model_info", lambda self, model_id, revision: info)
    monkeypatch.setattr("exporters.weights.hub.snapshot_download", download)
    _, weights = find_folder(HubModelSource(model_id="someone/tiny"), ExportOptions())
    assert calls == [("someone/tiny", REVISION, sorted(path.name for path in folder.iterdir()))]
    assert weights.revision == REVISION
