"""Changes of the files of a checkpoint, after they are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.exporters.families.checkpoints.build import LIMIT, Checkpoint, edit

Change = Callable[[Path], None]


def changed(checkpoint: Checkpoint, *changes: Change, **more: Any) -> Checkpoint:
    def write(folder: Path) -> None:
        checkpoint.write(folder)
        for change in changes:
            change(folder)

    return replace(checkpoint, write=write, **more)


def set_keys(name: str, **keys: Any) -> Change:
    """Return a function that changes keys of a JSON file of the folder."""
    return lambda folder: edit(folder / name, **keys)


def write_legacy_settings(name: str = "sentence_bert_config.json", **keys: Any) -> Change:
    """Return a function that writes the encoder's settings as versions before 6 did."""

    def change(folder: Path) -> None:
        (folder / "sentence_bert_config.json").unlink()
        settings = {"max_seq_length": LIMIT, "do_lower_case": False} | keys
        settings = {key: value for key, value in settings.items() if value is not ...}
        (folder / name).write_text(json.dumps(settings), "utf-8")

    return change


def edit_modules(edited: Callable[[list[dict[str, Any]]], object]) -> Change:
    """Return a function that changes modules.json."""

    def change(folder: Path) -> None:
        path = folder / "modules.json"
        modules = json.loads(path.read_text("utf-8"))
        edited(modules)
        path.write_text(json.dumps(modules), "utf-8")

    return change


def set_module(index: int, **keys: Any) -> Change:
    return edit_modules(lambda modules: modules[index].update(keys))


def use_old_names(modules: list[dict[str, Any]]) -> None:
    for module in modules:
        module["type"] = "sentence_transformers.models." + module["type"].rpartition(".")[2]


def move_into(subfolder: str) -> Change:
    """Return a function that moves the encoder's files into a folder of their own."""

    def change(folder: Path) -> None:
        kept = ("modules.json", "config_sentence_transformers.json")
        files = [path for path in folder.iterdir() if path.is_file() and path.name not in kept]
        (folder / subfolder).mkdir()
        for path in files:
            path.rename(folder / subfolder / path.name)

    return change


def write_file(name: str, content: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_text(content, "utf-8")

    return change


def remove(*names: str) -> Change:
    """Return a function that removes files."""

    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return change


def edit_weights(edited: Callable[[dict[str, torch.Tensor]], object], name: str = "model.safetensors") -> Change:
    """Return a function that changes the weights."""

    def change(folder: Path) -> None:
        state = load_file(folder / name)
        edited(state)
        save_file(state, folder / name, {"format": "pt"})

    return change


def to_bin(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
