"""Models on the Hugging Face hub: downloaded into its cache, and described."""

from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.utils import logging as hub_logging

from exporters.catalogue.spec import HubSource
from exporters.catalogue.weights_ref import ModelFolder, Pretrained
from exporters.errors import WeightsUnavailableError
from exporters.weights.model_folder import describe_folder, find_weights, hash_weights
from exporters.weights.parsing import summarize_error
from runtime.artifact.manifest import Weights

_CONFIGURATION = ("*.json", "*.txt", "*.model")
_SAFETENSORS = ("model*.safetensors", "*/model.safetensors")
_PICKLED = ("pytorch_model*.bin", "*/pytorch_model.bin")  # read with weights_only; older models have nothing else


def find_model(source: HubSource, weights: Pretrained | ModelFolder) -> tuple[Path, Weights]:
    """Return the folder that holds a model, and the record of its weights. Download the missing files from the hub.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or does not have the model.
        WeightsError: The folder holds no weights.
    """
    if isinstance(weights, ModelFolder):
        return weights.path, describe_folder(weights.path)
    model_id, revision = source.model_id, source.revision
    try:
        folder = _download(model_id, revision, *_CONFIGURATION, *_SAFETENSORS)
        parts = [folder, *(path.parent for path in folder.glob("*_Dense/config.json"))]  # with the linear layers
        if not all(map(find_weights, parts)):
            _download(model_id, revision, *_CONFIGURATION, *_SAFETENSORS, *_PICKLED)
    except Exception as exc:  # the hub's client raises a dozen types, and its HTTP library others
        raise WeightsUnavailableError(
            f"cannot download {model_id} ({summarize_error(exc)}); use --weights FOLDER with a copy of it, or "
            "--weights random"
        ) from exc
    files = find_weights(folder)
    sha256 = hash_weights(folder, files)
    return folder, Weights(
        origin="pretrained",
        description=f"hub {model_id}",
        revision=folder.name,
        file=files[0].name,
        sha256=sha256,
        licence=source.licence,
    )


def download_tokenizer(model_id: str, revision: str | None) -> Path:
    """Return the folder of the hub's cache that holds a model's configuration and tokenizer, without its weights.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or does not have the model.
    """
    try:
        return _download(model_id, revision, *_CONFIGURATION)
    except Exception as exc:  # as above
        raise WeightsUnavailableError(
            f"a state dict comes without a tokenizer, and the tokenizer of {model_id} cannot be downloaded "
            f"({summarize_error(exc)}); give a folder that holds it by --tokenizer"
        ) from exc


def _download(model_id: str, revision: str | None, *patterns: str) -> Path:
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)  # each retry would print a line among the stages
    try:
        return Path(snapshot_download(model_id, revision=revision, allow_patterns=list(patterns)))
    finally:
        hub_logging.set_verbosity(verbosity)
