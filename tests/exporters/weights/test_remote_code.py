"""Code in a model folder is found where its library would run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exporters.errors import WeightsError, WeightsUnavailableError
from exporters.weights.remote_code import find_code, refuse_code
from tests.exporters.hub_cache import add_to_cache

CODE = {"model_type": "bert", "auto_map": {"AutoModel": "modeling.Model"}}


def write(folder: Path, name: str, content: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder


def write_adapter(folder: Path, base: str) -> Path:
    return write(folder, "adapter_config.json", {"base_model_name_or_path": base})


@pytest.mark.parametrize("place", ["", "0_Transformer"])
def test_code_of_the_model_that_an_adapter_adapts_is_found(place: str, tmp_path: Path) -> None:
    base = write(tmp_path / "base", "config.json", CODE)
    adapter = tmp_path / "adapter"
    write_adapter(adapter / place, str(base))
    if place:
        module = {"type": "sentence_transformers.models.Transformer", "path": place}
        write(adapter, "modules.json", [module])
    assert find_code(adapter) == f"auto_map in the config.json of {base}"
    with pytest.raises(WeightsError, match=r"brings code of its own \(auto_map in the config\.json of .*base\)"):
        refuse_code(adapter)
    write(base, "config.json", {"model_type": "bert"})
    assert find_code(adapter) == ""


def test_the_repository_of_code_in_another_one_is_named(tmp_path: Path) -> None:
    classes = {"AutoModel": "someone/code--modeling.Model", "AutoTokenizer": ["someone/words--words.Slow", None]}
    folder = write(tmp_path, "config.json", {"auto_map": classes})
    assert find_code(folder) == "auto_map in config.json: someone/code, someone/words"


def test_code_of_an_adapted_model_on_the_hub_is_found(hub: Path, tmp_path: Path) -> None:
    add_to_cache(hub, "someone/base", write(tmp_path / "base", "config.json", CODE))
    assert find_code(write_adapter(tmp_path / "adapter", "someone/base")).endswith("config.json of someone/base")


@pytest.mark.parametrize("base", ["someone/unknown", "folder"])
def test_an_adapted_model_that_cannot_be_read_is_named(base: str, hub: Path, tmp_path: Path) -> None:
    name = str(write(tmp_path / base, "tokenizer.json", {})) if base == "folder" else base
    with pytest.raises(WeightsUnavailableError, match=rf"the model .*{base}, which .*base_model_name_or_path"):
        find_code(write_adapter(tmp_path / "adapter", name))
