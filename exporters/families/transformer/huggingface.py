"""Text backbones of transformers and sentence-transformers: from the hub, a folder, a state dict, or random."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
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

from exporters.catalogue.spec import HuggingFaceSource, random_seed
from exporters.errors import WeightsError, WeightsMismatchError
from exporters.families.transformer.sentence_layers import SentenceLayers, read_sentence_layers
from exporters.families.transformer.tower import Transformer
from exporters.modules.projection import ProjectionLayer
from exporters.weights.model_folder import (
    check_library,
    check_tokenizer_is_needed,
    describe_folder,
    describe_hub,
    download,
    download_tokenizer,
    first_line,
    load_with_transformers,
)
from exporters.weights.stand_in_tokenizer import random_tokenizer
from exporters.weights.state_dict import Checkpoint, load_into, random_record, read_checkpoint, unwrap
from runtime.artifact.manifest import MIN_TEXT_LENGTH, Weights

_NO_LIMIT = 1_000_000  # transformers writes 1e30 where a tokenizer states none
_DEFAULT_LENGTH = 512  # of T5, whose positions are relative and state none either
_ENCODERS = {"bert": BertModel, "distilbert": DistilBertModel, "t5": T5EncoderModel}
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
# What is not exported: BERT's pooler for its pre-training, T5's other half, and counters that older versions saved.
_UNUSED = ("pooler", "embeddings.position_ids")
_UNUSED_OF_T5 = ("decoder", "lm_head")
# Where the state dict of a SentenceTransformer has its encoder, and the linear layers behind the pooling.
_SENTENCE_ENCODERS = ("0.auto_model.", "0.model.")
_DENSE = re.compile(r"\d+\.linear\.\w+$")


def load_transformer(
    source: HuggingFaceSource,
    weights: str | Checkpoint,
    *,
    tokenizer: Path | None = None,
    layers: SentenceLayers | None = None,
    any_family: bool = False,
) -> Transformer:
    """Builds a text encoder and fills it.

    Args:
        source: Which one.
        weights: ``pretrained``, ``random``, ``random:SEED``, a folder in either library's layout, whose own files then
            decide everything, the file of a state dict, or one that has been read.
        tokenizer: For a state dict, the folder that holds its tokenizer; by default that of ``source`` on the hub.
        layers: For a state dict of the encoder alone, what follows it; by default what the tokenizer's folder says.
        any_family: Whether a folder may hold another architecture than that of ``source``.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or there is no such file or folder.
        WeightsError: They are no text model that this exporter knows.
    """
    if isinstance(weights, Checkpoint):
        return _fill(source, weights, tokenizer, layers)
    if not Path(weights).is_file():
        check_tokenizer_is_needed(tokenizer, weights)
    seed = random_seed(weights)
    if seed is not None:
        return _build_random(source, seed)
    if weights == "pretrained":
        folder = download(source.model_id, source.revision)
        return load_folder(folder, describe_hub(source.model_id, folder, source.licence))
    path = Path(weights)
    if path.is_file():
        return _fill(source, read_checkpoint(path), tokenizer, layers)
    return load_folder(path, describe_folder(path), expected=None if any_family else source.model_type)


def load_folder(folder: Path, weights: Weights, *, expected: str | None = None) -> Transformer:
    """Loads a text encoder from a folder, with what its files say of pooling, projection and normalisation.

    Args:
        folder: In the layout of transformers or sentence-transformers.
        weights: Where the weights came from.
        expected: transformers' name of the architecture that it has to have; ``None`` for any text encoder.

    Raises:
        WeightsMismatchError: It is of another architecture, or lacks some of its weights.
        WeightsError: The folder is no text model that this exporter knows.
    """
    check_library(folder)
    layers = read_sentence_layers(folder)
    config = read_config(folder)
    if expected not in (None, config.model_type):
        raise WeightsMismatchError(
            f"{folder} is a {config.model_type}, where a {expected} is expected; export it under a name of its own "
            "by --name"
        )
    is_t5 = config.model_type == "t5"
    if not hasattr(config, "vocab_size") or (config.is_encoder_decoder and not is_t5):
        raise WeightsMismatchError(f"{folder} is a {config.model_type}, where a text encoder is expected")
    loader, unused = (T5EncoderModel, _UNUSED + _UNUSED_OF_T5) if is_t5 else (AutoModel, _UNUSED)
    model = load_with_transformers(loader, folder, config.model_type, ignored=unused)
    tokenizer = read_tokenizer(folder, model.config.vocab_size)
    _check_case(tokenizer, layers, folder)
    return Transformer(
        model=model,
        tokenizer=tokenizer,
        layers=layers,
        max_length=max_length(config, tokenizer, layers.max_length),
        weights=weights,
    )


def read_config(folder: Path) -> PreTrainedConfig:
    """Returns the configuration of a folder in transformers' layout.

    Raises:
        WeightsError: It cannot be read.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as exc:  # transformers raises whatever a damaged or strange folder makes it trip over
        raise WeightsError(f"{folder} cannot be loaded by transformers ({first_line(exc)})") from exc
    return config


def read_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """Returns the tokenizer in ``folder``, as transformers loads it.

    Raises:
        WeightsError: There is none, or none that the ``tokenizers`` library can run.
        WeightsMismatchError: It has more tokens than the model's ``vocab_size``.
    """
    way_out = "save one there with tokenizer.save_pretrained (tokenizer.json)"
    if not any((folder / name).is_file() for name in _VOCABULARIES):  # transformers would make one of no words
        raise WeightsError(f"{folder} holds no tokenizer; {way_out}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as exc:  # as above
        raise WeightsError(
            f"{folder} holds no tokenizer that transformers loads ({first_line(exc)}); {way_out}"
        ) from exc
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise WeightsError(f"{folder} has no fast tokenizer; {way_out}")
    if tokenizer.truncation_side != "right":
        raise WeightsError(f"{folder} cuts texts at their beginning (truncation_side), and the runtime at their end")
    if len(tokenizer) > vocab_size:
        raise WeightsMismatchError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, and the model embeddings for {vocab_size}; take "
            "the tokenizer of that model"
        )
    return tokenizer


def max_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, stated: int | None = None) -> int:
    """Returns the smallest of the limits that are stated.

    Args:
        config: States the positions that there are.
        tokenizer: States a limit, or 1e30 for none.
        stated: That of sentence-transformers' files, which goes before the tokenizer's.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if config.model_type in ("roberta", "xlm-roberta", "mpnet") and positions:
        positions -= (config.pad_token_id or 0) + 1  # their positions start behind the padding's
    limits = [int(limit) for limit in (stated or tokenizer.model_max_length, positions) if limit and limit < _NO_LIMIT]
    return max(MIN_TEXT_LENGTH, min(limits, default=_DEFAULT_LENGTH))


def _fill(
    source: HuggingFaceSource, checkpoint: Checkpoint, folder: Path | None, layers: SentenceLayers | None
) -> Transformer:
    """Builds the architecture of ``source``, and fills it with a state dict; the rest comes from ``folder``."""
    folder = folder or download_tokenizer(source.model_id, source.revision)
    model = _build(source, seed=0)
    tokenizer = read_tokenizer(folder, int(model.config.vocab_size))
    encoder = checkpoint.state_dict
    if layers is None:
        layers = read_sentence_layers(folder, with_weights=False)
        encoder, dense = _split(checkpoint, layers.projections)
        for (_, layer), state_dict in zip(layers.projections, dense, strict=True):
            load_into(layer, state_dict, source=checkpoint.source)
    _check_case(tokenizer, layers, folder)
    unused = _UNUSED + _UNUSED_OF_T5 if source.model_type == "t5" else _UNUSED
    load_into(model, encoder, unused=unused, source=checkpoint.source)
    return Transformer(
        model=model,
        tokenizer=tokenizer,
        layers=layers,
        max_length=max_length(model.config, tokenizer, layers.max_length),
        weights=checkpoint.record,
    )


def _check_case(tokenizer: PreTrainedTokenizerFast, layers: SentenceLayers, folder: Path) -> None:
    if layers.lowercase and tokenizer.tokenize("A CAT") != tokenizer.tokenize("a cat"):
        raise WeightsError(
            f"{folder} asks for lowercase texts (do_lower_case) and has a tokenizer that keeps their case; give it one "
            "that lowercases"
        )


def _split(
    checkpoint: Checkpoint, projections: tuple[ProjectionLayer, ...]
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Takes the state dict of a SentenceTransformer apart: its encoder, and each linear layer behind the pooling.

    Raises:
        WeightsMismatchError: It has not as many linear layers as ``projections``.
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
            f"{checkpoint.source} has {len(dense)} linear layers behind the pooling, where {len(projections)} are "
            "expected; save the state dict of the whole SentenceTransformer"
        )
    return encoder, [dense[index] for index in sorted(dense, key=int)]


def _build_random(source: HuggingFaceSource, seed: int) -> Transformer:
    model = _build(source, seed)
    return Transformer(
        model=model,
        tokenizer=random_tokenizer(source.model_type, source.max_length),
        layers=SentenceLayers(projections=_random_projections(source, seed)),
        max_length=source.max_length,
        weights=random_record(model, seed),
    )


def _build(source: HuggingFaceSource, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config: Any = CONFIG_MAPPING[source.model_type]
        model: PreTrainedModel = _ENCODERS[source.model_type](config(**source.config))
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _random_projections(source: HuggingFaceSource, seed: int) -> tuple[ProjectionLayer, ...]:
    if source.projection is None:
        return ()
    record = source.projection
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ((record, nn.Linear(record.in_features, record.out_features, bias=record.bias).eval()),)
