"""Text encoders of the catalogue: folders by sentence-transformers; state dicts and random weights by transformers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    BertModel,
    DistilBertModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5EncoderModel,
)

from exporters.catalogue.spec import HuggingFaceSource
from exporters.catalogue.weights_ref import ModelFolder, ModelWeights, RandomInit, StateDict, refuse_tokenizer
from exporters.errors import WeightsError, WeightsMismatchError
from exporters.families.family import FolderRequest, LoadRequest
from exporters.families.from_run import only_model
from exporters.families.sentence.load import load_folder
from exporters.families.text_tower import count_positions
from exporters.families.tower import ExportableTower
from exporters.families.transformer.sentence_layers import SentenceLayers, read_sentence_layers
from exporters.families.transformer.tower import Transformer, TransformerTower
from exporters.modules.projection import ProjectionLayer
from exporters.weights.finetuner_run import RunModel
from exporters.weights.folder_kind import recognize_folder
from exporters.weights.hub import download_tokenizer, find_model
from exporters.weights.model_folder import has_vocabulary
from exporters.weights.parsing import summarize_error
from exporters.weights.stand_in_tokenizer import build_stand_in_tokenizer
from exporters.weights.state_dict import Checkpoint, load_into, read_checkpoint, record_random, seeded, unwrap
from runtime.artifact.manifest import MIN_TEXT_LENGTH, Pooling

_NO_LIMIT = 1_000_000  # transformers writes 1e30 for a tokenizer without a limit
_DEFAULT_LENGTH = 512  # for T5, whose relative positions state no limit either
_ENCODERS = {"bert": BertModel, "distilbert": DistilBertModel, "t5": T5EncoderModel}
# Parts that are not exported: BERT's pooler for pre-training, T5's decoder, and counters that older versions saved.
_IGNORED = ("pooler", "embeddings.position_ids")
_IGNORED_OF_T5 = ("decoder", "lm_head")
# Names in the state dict of a SentenceTransformer: prefixes of the encoder, and the linear layers after the pooling.
_SENTENCE_ENCODERS = ("0.auto_model.", "0.model.")
_DENSE = re.compile(r"\d+\.linear\.\w+$")


def load(request: LoadRequest[HuggingFaceSource], weights: ModelWeights) -> list[ExportableTower]:
    """Build a text encoder, load its weights, and return its tower.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or the file does not exist.
        WeightsError: The weights are not those of a known text model, or do not fit.
    """
    if isinstance(weights, RandomInit | StateDict):
        transformer = load_transformer(request.source, weights, tokenizer=request.options.tokenizer_folder)
        return [TransformerTower(transformer, request.options)]
    refuse_tokenizer(request.options.tokenizer_folder)
    folder, record = find_model(request.source, weights)
    if (kind := recognize_folder(folder)) != "text":
        raise WeightsMismatchError(f"{folder} is a model of kind {kind}, expected a text encoder; name it as NAME")
    towers = load_folder(FolderRequest(path=folder, weights=record, options=request.options))
    found, expected = towers[0].architecture, request.source.model_type
    if isinstance(weights, ModelFolder) and not request.any_architecture and found != expected:
        raise WeightsMismatchError(
            f"{folder} is a {found}, expected a {expected}; export it by its own name: `python -m exporters {folder}`"
        )
    return towers


def load_run(request: LoadRequest[HuggingFaceSource], models: Sequence[RunModel]) -> list[ExportableTower]:
    """Build a text encoder with the weights, pooling and head of a Finetuner run, and return its tower.

    Raises:
        WeightsUnavailableError: The hub cannot be reached.
        WeightsError: The run does not fit.
    """
    model = only_model(models)
    checkpoint, projections = model.split("_model.")
    layers = SentenceLayers(pooling=model.pooling or Pooling(method="mean"), projections=projections)
    transformer = _load_state_dict(request.source, checkpoint, request.options.tokenizer_folder, layers)
    return [TransformerTower(transformer, request.options)]


def load_transformer(
    source: HuggingFaceSource, weights: RandomInit | StateDict, *, tokenizer: Path | None = None
) -> Transformer:
    """Build a text encoder with random weights, or with those of a state dict.

    Args:
        source: The model.
        weights: The weights.
        tokenizer: Folder of the tokenizer of a state dict; by default the tokenizer of ``source`` on the hub.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or the file does not exist.
        WeightsError: The weights do not fit.
    """
    if isinstance(weights, StateDict):
        return _load_state_dict(source, read_checkpoint(weights), tokenizer)
    refuse_tokenizer(tokenizer)
    return _build_random(source, weights.seed)


def read_config(folder: Path) -> PreTrainedConfig:
    """Return the configuration of a folder in the layout of transformers.

    Raises:
        WeightsError: The configuration cannot be read.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as exc:  # transformers raises many types for a damaged or unknown folder
        raise WeightsError(f"{folder} cannot be loaded by transformers ({summarize_error(exc)})") from exc
    return config


def read_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer in ``folder``, as transformers loads it.

    Raises:
        WeightsError: There is no tokenizer, or the ``tokenizers`` library cannot run it.
        WeightsMismatchError: The tokenizer has more tokens than the model's ``vocab_size``.
    """
    advice = "save one there with tokenizer.save_pretrained (tokenizer.json)"
    if not has_vocabulary(folder):  # transformers would make an empty one
        raise WeightsError(f"{folder} holds no tokenizer; {advice}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as exc:  # as above
        raise WeightsError(
            f"{folder} holds no tokenizer that transformers loads ({summarize_error(exc)}); {advice}"
        ) from exc
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise WeightsError(f"{folder} has no fast tokenizer; {advice}")
    if tokenizer.truncation_side != "right":
        raise WeightsError(f"{folder} cuts the beginning of long texts (truncation_side), expected the end")
    if len(tokenizer) > vocab_size:
        raise WeightsMismatchError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, and the model has embeddings for {vocab_size}; "
            "use the tokenizer of that model"
        )
    return tokenizer


def max_length(encoder: nn.Module, tokenizer: PreTrainedTokenizerFast, stated: int | None = None) -> int:
    """Return the largest number of tokens: the smallest of the stated limits.

    Args:
        encoder: The model, whose table of positions is a limit.
        tokenizer: Tokenizer, with its limit (1e30 for none).
        stated: Limit in sentence-transformers' files. It replaces that of the tokenizer.
    """
    stated = stated or tokenizer.model_max_length
    limits = [int(limit) for limit in (stated, count_positions(encoder)) if limit and limit < _NO_LIMIT]
    return max(MIN_TEXT_LENGTH, min(limits, default=_DEFAULT_LENGTH))


def _load_state_dict(
    source: HuggingFaceSource, checkpoint: Checkpoint, folder: Path | None, layers: SentenceLayers | None = None
) -> Transformer:
    """Load a state dict of an encoder; without ``layers``, perhaps of a whole SentenceTransformer.

    ``folder`` holds the tokenizer (by default that of ``source`` on the hub) and states the layers if none are given.
    """
    folder = folder or download_tokenizer(source.model_id, source.revision, settings=layers is None)
    model = _build(source, seed=0)
    tokenizer = read_tokenizer(folder, int(model.config.vocab_size))
    encoder = checkpoint.state_dict
    if layers is None:
        layers = read_sentence_layers(folder)
        encoder, dense = _split_sentence_transformer(checkpoint, layers.projections)
        for (_, layer), state_dict in zip(layers.projections, dense, strict=True):
            load_into(layer, state_dict, source=checkpoint.source)
    _check_case(tokenizer, layers, folder)
    ignored = _IGNORED + _IGNORED_OF_T5 if source.model_type == "t5" else _IGNORED
    load_into(model, encoder, ignored=ignored, source=checkpoint.source)
    return Transformer(
        model=model,
        tokenizer=tokenizer,
        layers=layers,
        max_length=max_length(model, tokenizer, layers.max_length),
        weights=checkpoint.record,
    )


def _check_case(tokenizer: PreTrainedTokenizerFast, layers: SentenceLayers, folder: Path) -> None:
    if layers.lowercase and tokenizer.tokenize("A CAT") != tokenizer.tokenize("a cat"):
        raise WeightsError(
            f"{folder} asks for lowercase texts (do_lower_case), but its tokenizer keeps upper case; save a tokenizer "
            "that lowercases"
        )


def _split_sentence_transformer(
    checkpoint: Checkpoint, projections: tuple[ProjectionLayer, ...]
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Split the state dict of a SentenceTransformer into its encoder and the linear layers after the pooling.

    Raises:
        WeightsMismatchError: The number of linear layers differs from ``projections``.
    """
    state_dict = unwrap(checkpoint.state_dict)
    encoder = dict(state_dict)
    for prefix in _SENTENCE_ENCODERS:
        encoder = {name.removeprefix(prefix): value for name, value in encoder.items()}
    dense: dict[str, dict[str, Tensor]] = {}
    for name in [name for name in encoder if _DENSE.match(name)]:
        index, _, parameter = name.split(".")
        dense.setdefault(index, {})[parameter] = encoder.pop(name)
    if len(dense) != len(projections):
        raise WeightsMismatchError(
            f"{checkpoint.source} has {len(dense)} linear layers after the pooling, expected {len(projections)}; save "
            "the state dict of the whole SentenceTransformer"
        )
    return encoder, [dense[index] for index in sorted(dense, key=int)]


def _build_random(source: HuggingFaceSource, seed: int) -> Transformer:
    model = _build(source, seed)
    projections: tuple[ProjectionLayer, ...] = ()
    if record := source.projection:
        with seeded(seed):
            projections = ((record, nn.Linear(record.in_features, record.out_features, bias=record.bias).eval()),)
    return Transformer(
        model=model,
        tokenizer=build_stand_in_tokenizer(source.model_type, source.max_length),
        layers=SentenceLayers(projections=projections),
        max_length=source.max_length,
        weights=record_random(model, seed),
    )


def _build(source: HuggingFaceSource, seed: int) -> PreTrainedModel:
    with seeded(seed):
        config: Any = CONFIG_MAPPING[source.model_type]
        model: PreTrainedModel = _ENCODERS[source.model_type](config(**source.config))
    model.eval()  # type: ignore[no-untyped-call]
    return model
