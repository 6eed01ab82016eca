"""Text encoders of the catalogue: folders, state dicts, Finetuner runs and random weights."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedTokenizerFast

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import HuggingFaceSource
from exporters.catalogue.weights_ref import ModelFolder, ModelWeights, RandomInit, StateDict, refuse_tokenizer
from exporters.errors import WeightsError, WeightsMismatchError
from exporters.families.family import FolderRequest, LoadRequest
from exporters.families.from_run import only_model
from exporters.families.sentence.load import load_folder
from exporters.families.sentence.reader import read_model, unused_parts
from exporters.families.sentence.tower import SentenceTower, replace_pooling
from exporters.families.tower import ExportableTower
from exporters.modules.projection import ACTIVATIONS, ProjectionLayer
from exporters.weights.finetuner_run import RunModel
from exporters.weights.folder_kind import recognize_folder
from exporters.weights.hub import download_tokenizer, find_model
from exporters.weights.load_watch import replaced_method
from exporters.weights.model_folder import describe_folder, read_tokenizer
from exporters.weights.remote_code import find_code
from exporters.weights.stand_in_tokenizer import build_stand_in_tokenizer
from exporters.weights.state_dict import Checkpoint, complete_record, load_into, read_checkpoint, seeded, unwrap

_ENCODER = re.compile(r"^0\.(auto_model|model)\.")  # names of the encoder in the state dict of a SentenceTransformer
_UNUSED_OF_T5 = ("decoder", "lm_head")


def load(request: LoadRequest[HuggingFaceSource], weights: ModelWeights) -> list[ExportableTower]:
    """Build a text encoder, load its weights, and return its tower.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or the file does not exist.
        WeightsError: The weights are not those of a known text model, or do not fit.
        UsageError: An option does not fit the model or the weights.
    """
    if isinstance(weights, StateDict):
        return [_load_state_dict(request, read_checkpoint(weights))]
    refuse_tokenizer(request.options.tokenizer_folder)
    if isinstance(weights, RandomInit):
        return [_load_random(request, weights)]
    folder, record = find_model(request.source, weights)
    if (kind := recognize_folder(folder)) != "text":
        raise WeightsMismatchError(f"{folder} is a model of kind {kind}, expected a text encoder; name it as NAME")
    towers = load_folder(FolderRequest(path=folder, weights=record, options=request.options))
    found, expected = towers[0].architecture, request.source.model_type
    if isinstance(weights, ModelFolder) and found != expected:
        raise WeightsMismatchError(
            f"{folder} is a {found}, expected a {expected}; export it by its own name: `python -m exporters {folder}`"
        )
    return towers


def load_run(request: LoadRequest[HuggingFaceSource], models: Sequence[RunModel]) -> list[ExportableTower]:
    """Build a text encoder with the weights, pooling and head of a Finetuner run, and return its tower.

    Of the tokenizer's folder, only the tokenizer counts: Finetuner read no files of sentence-transformers.

    Raises:
        WeightsUnavailableError: The hub cannot be reached.
        WeightsError: The run does not fit.
        UsageError: An option does not fit the model.
    """
    run, source = only_model(models), request.source
    checkpoint, layers = run.split("_model.")
    folder = request.options.tokenizer_folder or download_tokenizer(source.model_id, source.revision)
    model = _build_plain(source, request.options, read_tokenizer(folder, int(_config(source).vocab_size)))
    _fill(model, checkpoint, source)
    if run.pooling is not None:
        model[1] = replace_pooling(model[1], run.pooling)
    model.extend(map(_dense, layers))
    return [SentenceTower(model, checkpoint.record, request.options, source=str(folder), stated=True)]


def _load_state_dict(request: LoadRequest[HuggingFaceSource], checkpoint: Checkpoint) -> SentenceTower:
    """Load a state dict of an encoder or of a SentenceTransformer. The files beside the tokenizer are its settings."""
    source, options = request.source, request.options
    folder = options.tokenizer_folder or download_tokenizer(source.model_id, source.revision, settings=True)
    model = _build(source, options, folder)
    _fill(model, checkpoint, source)
    record = replace(checkpoint.record, remote_code=bool(find_code(folder)))
    return SentenceTower(model, record, options, source=str(folder), stated=(folder / "modules.json").is_file())


def _load_random(request: LoadRequest[HuggingFaceSource], weights: RandomInit) -> SentenceTower:
    source, options = request.source, request.options
    tokenizer = build_stand_in_tokenizer(source.model_type, source.max_length)
    model = _build_plain(source, options, tokenizer, weights.seed)
    if record := source.projection:
        with seeded(weights.seed):
            linear = nn.Linear(record.in_features, record.out_features, bias=record.bias)
        model.append(_dense((record, linear)))
    described = complete_record(describe_folder(Path(), weights), model)
    return SentenceTower(model, described, options, source=source.model_id, stated=False)


def _config(source: HuggingFaceSource) -> PreTrainedConfig:
    config: Any = CONFIG_MAPPING[source.model_type]
    built: PreTrainedConfig = config(**source.config)
    return built


def _build(source: HuggingFaceSource, options: ExportOptions, folder: Path, seed: int = 0) -> SentenceTransformer:
    """Build the model that a folder describes, with random weights, and with an encoder as ``source`` configures it.

    Args:
        source: The backbone. Its configuration replaces that of the folder.
        options: Options of the export.
        folder: Folder of the tokenizer. If it has the files of sentence-transformers, they count too.
        seed: Seed of the weights.

    Raises:
        WeightsError: sentence-transformers cannot load the folder.
    """
    config, random = _config(source), replace(options, weights=f"random:{seed}")
    request = FolderRequest(path=folder, weights=describe_folder(folder, random.weights_ref), options=random)
    with replaced_method(AutoConfig, "from_pretrained", lambda *_, **__: config):
        return read_model(request)


def _build_plain(
    source: HuggingFaceSource, options: ExportOptions, tokenizer: PreTrainedTokenizerFast, seed: int = 0
) -> SentenceTransformer:
    """Build an encoder with random weights and with the pooling ``mean``.

    Raises:
        WeightsError: sentence-transformers cannot load the tokenizer.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        try:
            return _build(source, options, Path(folder), seed)
        except WeightsError as exc:
            raise WeightsError(str(exc).replace(folder, tokenizer.name_or_path or "the stand-in tokenizer")) from exc


def _fill(model: SentenceTransformer, checkpoint: Checkpoint, source: HuggingFaceSource) -> None:
    """Load a state dict, of the encoder alone or of a SentenceTransformer.

    Raises:
        WeightsMismatchError: It does not fit.
    """
    state_dict = unwrap(checkpoint.state_dict)
    prefix = "" if any(map(_ENCODER.match, state_dict)) else "0.model."
    unused = unused_parts(model) + _UNUSED_OF_T5 * (source.model_type == "t5")
    load_into(
        model,
        {prefix + _ENCODER.sub("0.model.", name, count=1): value for name, value in state_dict.items()},
        ignored=tuple(f"0.model.{part}" for part in unused),
        source=checkpoint.source,
        advice="export it under the backbone that it was trained as; layers after the pooling have to be both in the "
        "file and in the modules.json of the tokenizer's folder",
        names=checkpoint.state_dict,
        added=prefix,
    )


def _dense(layer: ProjectionLayer) -> Dense:
    record, linear = layer
    activation = ACTIVATIONS[record.activation]()
    dense = Dense(record.in_features, record.out_features, bias=record.bias, activation_function=activation)
    dense.linear = linear
    return dense.eval()
