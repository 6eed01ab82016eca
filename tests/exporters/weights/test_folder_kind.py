from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from exporters.weights.folder_kind import recognize_folder

CASES: dict[str, dict[str, Any]] = {
    "text": {"config.json": {"model_type": "bert", "vocab_size": 9, "hidden_size": 8}},
    "image": {"config.json": {"model_type": "resnet", "num_channels": 3}},
    "text-image": {"config.json": {"text_config": {}, "vision_config": {}}},
    "timm": {"config.json": {"architecture": "resnet18", "pretrained_cfg": {}}},
    "open_clip": {"open_clip_config.json": {}},
    "sentence-clip": {"modules.json": [{"type": "sentence_transformers.models.CLIPModel", "path": "0_CLIPModel"}]},
}


@pytest.mark.parametrize("kind", CASES)
def test_the_files_of_a_folder_say_what_it_is(kind: str, tmp_path: Path) -> None:
    for name, content in CASES[kind].items():
        (tmp_path / name).write_text(json.dumps(content))
    assert recognize_folder(tmp_path) == kind


@pytest.mark.parametrize(("prefix", "kind"), [("timm_model.", "image"), ("", "timm")])
def test_the_names_of_weights_say_who_saved_a_model_of_timm(prefix: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "timm_wrapper", "pretrained_cfg": {}}))
    assert recognize_folder(tmp_path) == "image"
    save_file({f"{prefix}conv.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert recognize_folder(tmp_path) == kind


@pytest.mark.parametrize("method", ["get_{}_features", "forward"])
def test_the_methods_of_one_module_say_whether_it_holds_a_clip(method: str, tmp_path: Path) -> None:
    module = {"type": "sentence_transformers.base.modules.transformer.Transformer", "path": ""}
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    modalities = {name: {"method": method.format(name)} for name in ("text", "image")}
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"modality_config": modalities}))
    assert recognize_folder(tmp_path) == ("text" if method == "forward" else "sentence-clip")


def test_the_first_module_decides(tmp_path: Path) -> None:
    modules = [{"type": f"sentence_transformers.models.{name}", "path": ""} for name in ("Transformer", "CLIPModel")]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert recognize_folder(tmp_path) == "text"
