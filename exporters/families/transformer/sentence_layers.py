"""What a sentence-transformers folder says of the way from token features to one vector."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from exporters.errors import WeightsError
from exporters.modules.projection import ProjectionLayer
from exporters.weights.model_folder import find_weights, read_json, reading
from exporters.weights.state_dict import read_state_dict
from runtime.artifact.manifest import MIN_TEXT_LENGTH, Pooling, PoolingMethod, Projection

_POOLINGS: Mapping[str, PoolingMethod] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}
_KNOWN = re.compile(r"Transformer(, Pooling)?(, Dense)*(, Normalize)?")
_ACTIVATIONS = {"Identity": "identity", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu"}


@dataclass(frozen=True, kw_only=True)
class SentenceLayers:
    """What a checkpoint says of the way from token features to one vector.

    Attributes:
        pooling: How tokens are pooled; ``None`` if it says nothing.
        projections: Linear layers after it, with their records.
        normalized: Whether unit length follows.
        max_length: Tokens that it takes; ``None`` if it says nothing.
        lowercase: Whether texts are to be lowercased first, whatever the tokenizer does.
    """

    pooling: Pooling | None = None
    projections: tuple[ProjectionLayer, ...] = ()
    normalized: bool = False
    max_length: int | None = None
    lowercase: bool = False


def read_sentence_layers(folder: Path, *, with_weights: bool = True) -> SentenceLayers:
    """Reads ``modules.json`` and what it names; nothing is assumed where there is none.

    Args:
        folder: In the layout of sentence-transformers, or of transformers alone.
        with_weights: Whether to read the linear layers' weights; without, they are left as they are initialised.

    Raises:
        WeightsError: A file is damaged, or a module is none that this exporter knows.
    """
    if not (folder / "modules.json").is_file():
        return SentenceLayers()
    with reading(folder / "modules.json"):
        modules = [
            (str(module["type"]).rpartition(".")[2], _inside(folder, str(module["path"])))
            for module in read_json(folder / "modules.json")
        ]
    kinds = ", ".join(kind for kind, _ in modules)
    if not _KNOWN.fullmatch(kinds):
        raise WeightsError(
            f"{folder} chains {kinds}, where this exporter knows Transformer, Pooling, then Dense, then Normalize"
        )
    _check_prompt(folder)
    poolings = [_read_pooling(path / "config.json") for kind, path in modules if kind == "Pooling"]
    return SentenceLayers(
        pooling=poolings[0] if poolings else None,
        projections=tuple(_read_dense(path, with_weights=with_weights) for kind, path in modules if kind == "Dense"),
        normalized=kinds.endswith("Normalize"),
        **_read_limits(folder / "sentence_bert_config.json"),
    )


def _inside(folder: Path, path: str) -> Path:
    if Path(path).name != path:
        raise ValueError(f"the path {path!r} is not a folder beside it")
    return folder / path


def _check_prompt(folder: Path) -> None:
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return
    with reading(path):
        prompt = read_json(path).get("default_prompt_name")
    if prompt:
        raise WeightsError(
            f"{path} puts the prompt {prompt!r} before every text, which no graph can; remove default_prompt_name, and "
            "put the prompt before your texts yourself"
        )


def _read_limits(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with reading(path):
        config = read_json(path)
        stated = config.get("max_seq_length")
        max_length = None if stated is None else int(stated)
        lowercase = bool(config.get("do_lower_case", False))
    if max_length is not None and max_length < MIN_TEXT_LENGTH:
        raise WeightsError(f"{path} states a max_seq_length of {max_length}, which leaves no room for a text")
    return {"max_length": max_length, "lowercase": lowercase}


def _read_pooling(path: Path) -> Pooling:
    with reading(path):
        config = read_json(path)
        modes = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
        named = config.get("pooling_mode")  # sentence-transformers 5 writes one name instead of flags, which it prefers
    method = named if named is not None else _POOLINGS.get(modes[0]) if len(modes) == 1 else None
    if method not in ("mean", "cls", "max"):
        raise WeightsError(f"{path} asks for the pooling {named or modes}; this exporter knows mean, cls and max")
    return Pooling(method=method)


def _read_dense(folder: Path, *, with_weights: bool) -> ProjectionLayer:
    config = read_json(folder / "config.json")
    with reading(folder / "config.json"):
        activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]  # theirs, where none is stated
        places = {config.get(f"module_{end}_name") for end in ("input", "output")} - {None, "sentence_embedding"}
        if activation not in _ACTIVATIONS or config.get("use_residual") or places:
            raise WeightsError(
                f"{folder} asks for the activation {activation}, use_residual {config.get('use_residual')} and "
                f"{places or 'sentence_embedding'}; this exporter knows {', '.join(_ACTIVATIONS)}, no residual, and "
                "sentence_embedding"
            )
        record = Projection(
            in_features=int(config["in_features"]),
            out_features=int(config["out_features"]),
            bias=bool(config["bias"]),
            activation=_ACTIVATIONS[activation],  # type: ignore[arg-type]
        )
        layer = nn.Linear(record.in_features, record.out_features, bias=record.bias)
    if with_weights:
        _fill(layer, folder)
    return record, layer.eval()


def _fill(layer: nn.Linear, folder: Path) -> None:
    files = find_weights(folder)
    if not files:
        raise WeightsError(f"{folder} holds no weights; copy or download it whole")
    state = {name.removeprefix("linear."): value for name, value in read_state_dict(files[0]).items()}
    try:
        layer.load_state_dict(state)
    except RuntimeError as exc:
        raise WeightsError(f"{folder} holds no weights that fit its config.json ({exc})") from exc
