"""The layers after the encoder that a sentence-transformers folder states: pooling, projections, normalisation."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from torch import nn

from exporters.errors import WeightsError
from exporters.modules.projection import ProjectionLayer
from exporters.weights.parsing import parsing, read_json
from runtime.artifact.manifest import MIN_TEXT_LENGTH, Pooling, PoolingMethod, Projection
from runtime.artifact.similarity import SimilarityFunction

_POOLINGS: Mapping[str, PoolingMethod] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}
_KNOWN = re.compile(r"Transformer(, Pooling)?(, Dense)*(, Normalize)?")
_ACTIVATIONS = {"Identity": "identity", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu"}

# Settings of the encoder and the tokenizer that only sentence-transformers itself reads.
_OTHER_SETTINGS = (
    *("tokenizer_args", "processor_kwargs", "processing_kwargs", "config_args", "config_kwargs"),
    *("query_length", "document_length"),
)
_LOG = logging.getLogger("exporters")


@dataclass(frozen=True, kw_only=True)
class SentenceLayers:
    """Layers and limits that a checkpoint states, from token features to one vector; ``None`` if it states none."""

    pooling: Pooling | None = None
    projections: tuple[ProjectionLayer, ...] = ()
    normalized: bool = False
    max_length: int | None = None  # tokens
    lowercase: bool = False  # before the tokenizer
    similarity_function: SimilarityFunction = "cosine"


def read_sentence_layers(folder: Path) -> SentenceLayers:
    """Read ``modules.json`` and the files that it names, for a state dict. A folder without it states no layer.

    The linear layers keep their random initialisation, which the state dict replaces.

    Args:
        folder: Folder of the tokenizer, in the layout of sentence-transformers or transformers.

    Raises:
        WeightsError: A file is damaged, or a module is unknown.
    """
    if not (folder / "modules.json").is_file():
        return SentenceLayers(similarity_function=_read_settings(folder), **_read_limits(folder))
    with parsing(folder / "modules.json"):
        modules = [
            (str(module["type"]).rpartition(".")[2], _inside(folder, str(module["path"])))
            for module in read_json(folder / "modules.json")
        ]
    kinds = ", ".join(kind for kind, _ in modules)
    if not _KNOWN.fullmatch(kinds):
        raise WeightsError(
            f"{folder} has the modules {kinds}, expected Transformer, Pooling, then any Dense, then at most a Normalize"
        )
    similarity_function = _read_settings(folder)
    poolings = [_read_pooling(path / "config.json") for kind, path in modules if kind == "Pooling"]
    return SentenceLayers(
        pooling=poolings[0] if poolings else None,
        projections=tuple(_read_dense(path) for kind, path in modules if kind == "Dense"),
        normalized=kinds.endswith("Normalize"),
        similarity_function=similarity_function,
        **_read_limits(modules[0][1]),
    )


def _inside(folder: Path, path: str) -> Path:
    if Path(path).name != path:
        raise ValueError(f"the path {path!r} is not a folder beside modules.json")
    return folder / path


def _read_settings(folder: Path) -> SimilarityFunction:
    """Return the function that compares two vectors. A setting that a graph cannot keep is an error or a warning."""
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return "cosine"
    with parsing(path):
        settings = read_json(path)
        prompt, dim = settings.get("default_prompt_name"), settings.get("truncate_dim")
        prompts = sorted(str(name) for name, text in (settings.get("prompts") or {}).items() if text)
        function = str(settings.get("similarity_fn_name") or "cosine")
    if function not in get_args(SimilarityFunction):
        known = ", ".join(get_args(SimilarityFunction))
        raise WeightsError(f"{path} states the similarity_fn_name {function!r:.80}, which is not one of {known}")
    if dim is not None:
        raise WeightsError(f"{path} keeps {dim} dimensions; remove truncate_dim, and give it to embed")
    if prompts and not prompt:
        _LOG.warning("%s: its prompts %s are left out; put them before your texts", path, ", ".join(prompts))
    if prompt:
        raise WeightsError(
            f"{path} puts the prompt {prompt!r} before every text, but a graph cannot; remove default_prompt_name and "
            "put the prompt before your texts yourself"
        )
    return cast(SimilarityFunction, function)


def _read_limits(folder: Path) -> dict[str, Any]:
    # Older versions of the library have a file for each architecture, such as sentence_roberta_config.json.
    files = [folder / "sentence_bert_config.json", *sorted(folder.glob("sentence_*_config.json"))]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        return {}
    with parsing(path):
        config = read_json(path)
        others = [name for name in _OTHER_SETTINGS if config.get(name)]
        stated = config.get("max_seq_length")
        max_length = None if stated is None else int(stated)
        lowercase = bool(config.get("do_lower_case", False))
    if others:
        raise WeightsError(
            f"{path} states {others[0]}, which is not read for a state dict; put the weights into the folder, and "
            "export the folder itself"
        )
    if max_length is not None and max_length < MIN_TEXT_LENGTH:
        raise WeightsError(f"{path} states a max_seq_length of {max_length}, which leaves no room for a text")
    return {"max_length": max_length, "lowercase": lowercase}


def _read_pooling(path: Path) -> Pooling:
    with parsing(path):
        config = read_json(path)
        modes = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
        named = config.get("pooling_mode")  # sentence-transformers 5 writes a name, and prefers it to the flags
        include_prompt = bool(config.get("include_prompt", True))
    method = named if named is not None else _POOLINGS.get(modes[0]) if len(modes) == 1 else None
    if method not in ("mean", "cls", "max"):
        raise WeightsError(f"{path} states the pooling {named or modes}, expected mean, cls or max")
    if not include_prompt:
        raise WeightsError(
            f"{path} leaves the tokens of a prompt out (include_prompt), which is not read for a state dict; put the "
            "weights into the folder, and export the folder itself"
        )
    return Pooling(method=method)


def _read_dense(folder: Path) -> ProjectionLayer:
    config = read_json(folder / "config.json")
    with parsing(folder / "config.json"):
        activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]  # Tanh is their default
        names = {config.get(f"module_{end}_name") for end in ("input", "output")} - {None, "sentence_embedding"}
        if activation not in _ACTIVATIONS or config.get("use_residual") or names:
            raise WeightsError(
                f"{folder} states the activation {activation}, use_residual {config.get('use_residual')} and "
                f"{names or 'sentence_embedding'}; expected one of {', '.join(_ACTIVATIONS)}, no residual, and "
                "sentence_embedding"
            )
        record = Projection(
            in_features=int(config["in_features"]),
            out_features=int(config["out_features"]),
            bias=bool(config["bias"]),
            activation=_ACTIVATIONS[activation],  # type: ignore[arg-type]
        )
        layer = nn.Linear(record.in_features, record.out_features, bias=record.bias)
    return record, layer.eval()
