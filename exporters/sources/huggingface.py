"""Text backbones in transformers' and sentence-transformers' layout: from the hub, from a folder, or random."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertModel,
    DistilBertModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5EncoderModel,
)
from transformers.utils import logging as transformers_logging

from exporters.errors import WeightsError, WeightsMismatchError, WeightsUnavailableError
from exporters.sources.checkpoint import hash_values
from exporters.sources.random_tokenizer import build_tokenizer
from exporters.spec import HuggingFaceSource, random_seed
from runtime.artifact import record_file
from runtime.manifest import MIN_TEXT_LENGTH, Pooling, PoolingMethod, Projection, Weights

_LISTED = 5
_NO_LIMIT = 1_000_000  # transformers writes 1e30 where a tokenizer states none
_DEFAULT_LENGTH = 512  # of T5, whose positions are relative and state none either
_FILES = ("*.json", "*.txt", "*.model", "model.safetensors", "*/config.json", "*/model.safetensors")
_POOLINGS: Mapping[str, PoolingMethod] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}
_ENCODERS = {"bert": BertModel, "distilbert": DistilBertModel, "t5": T5EncoderModel}
_ACTIVATIONS = {"Identity": "identity", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu"}


@dataclass(frozen=True, kw_only=True)
class SentenceLayers:
    """What a checkpoint says of the way from token features to one vector.

    Attributes:
        pooling: How tokens are pooled; ``None`` if it says nothing.
        projections: Linear layers after it, with their records.
        normalized: Whether unit length follows.
        max_length: Tokens that it takes; ``None`` if it says nothing.
    """

    pooling: Pooling | None = None
    projections: tuple[tuple[Projection, nn.Linear], ...] = ()
    normalized: bool = False
    max_length: int | None = None


@dataclass(frozen=True, kw_only=True)
class TextModel:
    """A text encoder as its library built it.

    Attributes:
        model: Token ids and mask to ``last_hidden_state``; unmodified, in evaluation mode.
        tokenizer: transformers' own.
        layers: What follows, as the checkpoint says.
        max_length: Tokens that it takes, special ones included.
        weights: Where the weights came from.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    layers: SentenceLayers
    max_length: int
    weights: Weights


def load_text(source: HuggingFaceSource, weights: str) -> TextModel:
    """Builds a text encoder and fills it.

    Args:
        source: Which one.
        weights: ``pretrained``, ``random``, ``random:SEED``, or a folder in either library's layout, whose own files
            then decide everything.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or there is no such folder.
        WeightsError: The folder is no text model that this exporter knows.
    """
    seed = random_seed(weights)
    if seed is not None:
        return _build_random(source, seed)
    if weights == "pretrained":
        folder = _download(source)
        record = Weights(
            origin="pretrained",
            description=f"hub {source.model_id}",
            revision=folder.name,
            file="model.safetensors",
            sha256=_hash_weights(folder),
            licence=source.licence,
        )
        return load_folder(folder, record)
    folder = Path(weights)
    if not folder.is_dir():
        raise WeightsUnavailableError(
            f"there is no folder {folder}; --weights takes `pretrained`, `random` or a folder in the layout of "
            "transformers or sentence-transformers"
        )
    name = folder.resolve().name.encode("utf-8", "backslashreplace").decode()
    record = Weights(origin="file", description=name, file="model.safetensors", sha256=_hash_weights(folder))
    return load_folder(folder, record)


def load_folder(folder: Path, weights: Weights) -> TextModel:
    """Loads a text encoder from a folder, with what its files say of pooling, projection and normalisation.

    Raises:
        WeightsError: The folder is no text model that this exporter knows, or lacks some of its weights.
    """
    layers = _read_sentence_layers(folder)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # in the middle of our stages
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        loader: Any = T5EncoderModel if config.model_type == "t5" else AutoModel
        model, report = loader.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except Exception as exc:  # transformers raises whatever a damaged or strange folder makes it trip over
        first, *_ = str(exc).splitlines() or [type(exc).__name__]
        raise WeightsError(
            f"{folder} cannot be loaded by transformers ({first}); save it with save_pretrained"
        ) from exc
    # transformers fills what a checkpoint lacks with random values, and only logs it; the pooler is not exported
    missing = sorted(key for key in report["missing_keys"] if "pooler." not in key)
    if missing:
        listed = ", ".join(missing[:_LISTED]) + (", ..." if len(missing) > _LISTED else "")
        raise WeightsMismatchError(
            f"{folder} lacks {len(missing)} weights of its {config.model_type} ({listed}); save it whole with "
            "save_pretrained"
        )
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise WeightsError(f"{folder} has no fast tokenizer; save one with tokenizer.save_pretrained (tokenizer.json)")
    return TextModel(
        model=model.eval(),
        tokenizer=tokenizer,
        layers=layers,
        max_length=_max_length(config, tokenizer, layers),
        weights=weights,
    )


def _download(source: HuggingFaceSource) -> Path:
    """Returns the folder of the hub's cache that holds the model, downloading what is not there yet."""
    try:
        return Path(snapshot_download(source.model_id, allow_patterns=list(_FILES)))
    except Exception as exc:  # the hub's client raises a dozen types, and its HTTP library others
        first, *_ = str(exc).splitlines() or [type(exc).__name__]
        raise WeightsUnavailableError(
            f"cannot download {source.model_id} ({first}); take --weights FOLDER with a copy of it, or --weights random"
        ) from exc


def _hash_weights(folder: Path) -> str:
    try:
        return record_file(folder / "model.safetensors").sha256
    except OSError as exc:
        raise WeightsError(
            f"{folder} holds no model.safetensors; save the model with save_pretrained(..., safe_serialization=True)"
        ) from exc


def _max_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, layers: SentenceLayers) -> int:
    """Returns the smallest of the limits that are stated: by sentence-transformers, the tokenizer, the positions."""
    positions = getattr(config, "max_position_embeddings", None)
    if config.model_type in ("roberta", "xlm-roberta", "mpnet") and positions:
        positions -= config.pad_token_id + 1  # their positions start behind the padding's
    stated = [layers.max_length or tokenizer.model_max_length, positions]
    limits = [int(limit) for limit in stated if limit and limit < _NO_LIMIT]
    return max(MIN_TEXT_LENGTH, min(limits, default=_DEFAULT_LENGTH))


def _read_sentence_layers(folder: Path) -> SentenceLayers:
    """Reads ``modules.json`` and what it names; nothing is assumed where there is none.

    Raises:
        WeightsError: A file is damaged, or a module is none that this exporter knows.
    """
    if not (folder / "modules.json").is_file():
        return SentenceLayers()
    pooling, projections, normalized = None, [], False
    for module in _read_json(folder / "modules.json"):
        kind, path = str(module["type"]).rpartition(".")[2], folder / str(module["path"])
        if kind == "Pooling":
            pooling = _read_pooling(path / "config.json")
        elif kind == "Dense":
            projections.append(_read_dense(path))
        elif kind == "Normalize":
            normalized = True
        elif kind != "Transformer":
            raise WeightsError(f"{folder} has a module {kind}, which this exporter does not know")
    limits = folder / "sentence_bert_config.json"
    return SentenceLayers(
        pooling=pooling,
        projections=tuple(projections),
        normalized=normalized,
        max_length=_read_json(limits).get("max_seq_length") if limits.is_file() else None,
    )


def _read_pooling(path: Path) -> Pooling:
    config = _read_json(path)
    modes = [name for name, value in config.items() if name.startswith("pooling_mode") and value is True]
    named = config.get("pooling_mode")  # sentence-transformers 5 writes one name instead of flags
    method = _POOLINGS.get(modes[0]) if len(modes) == 1 else named
    if method not in ("mean", "cls", "max"):
        raise WeightsError(f"{path} asks for the pooling {named or modes}; this exporter knows mean, cls and max")
    return Pooling(method=method)


def _read_dense(folder: Path) -> tuple[Projection, nn.Linear]:
    from safetensors.torch import load_file

    config = _read_json(folder / "config.json")
    activation = str(config.get("activation_function", "torch.nn.modules.linear.Identity")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise WeightsError(f"{folder} asks for the activation {activation}; this exporter knows {list(_ACTIVATIONS)}")
    record = Projection(
        in_features=config["in_features"],
        out_features=config["out_features"],
        bias=config["bias"],
        activation=_ACTIVATIONS[activation],  # type: ignore[arg-type]
    )
    layer = nn.Linear(record.in_features, record.out_features, bias=record.bias)
    try:
        state = load_file(folder / "model.safetensors")
        layer.load_state_dict({name.removeprefix("linear."): value for name, value in state.items()})
    except Exception as exc:  # safetensors raises its own type, torch RuntimeError
        raise WeightsError(f"{folder} holds no weights that fit its config.json ({exc})") from exc
    return record, layer.eval()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise WeightsError(f"{path} cannot be read ({exc})") from exc


def _build_random(source: HuggingFaceSource, seed: int) -> TextModel:
    backend, special = build_tokenizer(source.model_type)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, model_max_length=source.max_length, **special
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config: Any = CONFIG_MAPPING[source.model_type]
        model = _ENCODERS[source.model_type](config(**source.config))
        projections = _random_projections(source)
    return TextModel(
        model=model.eval(),
        tokenizer=tokenizer,
        layers=SentenceLayers(projections=projections),
        max_length=source.max_length,
        weights=Weights(
            origin="random", description=f"random, seed {seed}", seed=seed, sha256=hash_values(model.state_dict())
        ),
    )


def _random_projections(source: HuggingFaceSource) -> tuple[tuple[Projection, nn.Linear], ...]:
    if source.projection is None:
        return ()
    record = source.projection
    return ((record, nn.Linear(record.in_features, record.out_features, bias=record.bias).eval()),)
