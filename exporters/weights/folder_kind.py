"""Tell which library and which family a model folder belongs to, from the files in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from exporters.errors import WeightsError
from exporters.weights.parsing import parsing, read_json

# ``text``: sentence-transformers or transformers; ``image`` and ``text-image``: transformers; ``sentence-clip``: a
# module of sentence-transformers that gives the features of texts and images.
FolderKind = Literal["text", "image", "text-image", "sentence-clip", "timm", "open_clip"]
_TRANSFORMER_SETTINGS = "sentence_bert_config.json"
_FEATURES = {"text": "get_text_features", "image": "get_image_features"}
_TEXT_MARKS = ("modules.json", "adapter_config.json")


def recognize_folder(folder: Path) -> FolderKind:
    """Return the family of a model folder. No values of weights are read, and no code in the folder is run.

    Raises:
        WeightsError: The folder holds no model of a known layout.
    """
    if (folder / "open_clip_config.json").is_file():
        return "open_clip"
    if any((folder / name).is_file() for name in _TEXT_MARKS):
        return "sentence-clip" if _has_clip_module(folder / "modules.json") else "text"
    config = _read_config(folder)
    if config.get("model_type") == "timm_wrapper" and _has_wrapped_names(folder):
        return "image"
    if "pretrained_cfg" in config:
        return "timm"
    if "vision_config" in config and "text_config" in config:
        return "text-image"
    return "text" if _is_text(config) else "image"


def _has_wrapped_names(folder: Path) -> bool:
    """Tell whether transformers saved a model of timm, which then has other names of weights; true without weights."""
    from safetensors import safe_open  # not in the environment that only lists the models

    path = folder / "model.safetensors"
    if not path.is_file():
        return True
    with parsing(path), safe_open(path, "pt") as file:
        return any(name.startswith("timm_model.") for name in file.keys())  # noqa: SIM118  it is no dict


def _has_clip_module(modules: Path) -> bool:
    """Tell whether the first module of a model of sentence-transformers is a CLIP, or a Transformer that holds one."""
    if not modules.is_file():
        return False
    with parsing(modules):
        first = read_json(modules)[0]
        kind, settings = str(first["type"]).rpartition(".")[2], modules.parent / first["path"] / _TRANSFORMER_SETTINGS
    if kind != "Transformer" or not settings.is_file():
        return kind == "CLIPModel"
    with parsing(settings):
        modalities = read_json(settings).get("modality_config") or {}
        return {name: each["method"] for name, each in modalities.items()} == _FEATURES


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"{folder} holds no model: it has neither config.json nor modules.json; give a folder that transformers, "
            "sentence-transformers, timm or open_clip saved"
        )
    with parsing(folder / "config.json"):
        return dict(read_json(folder / "config.json"))


def _is_text(config: dict[str, Any]) -> bool:
    return "image_size" not in config and "num_channels" not in config
