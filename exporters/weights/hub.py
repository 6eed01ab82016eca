"""Models on the Hugging Face hub: downloaded into its cache, and described."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.utils import logging as hub_logging

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import FolderSource, HubModelSource, HubSource
from exporters.catalogue.weights_ref import ModelFolder, Pretrained
from exporters.errors import WeightsUnavailableError
from exporters.weights.model_folder import describe_folder, find_weights
from exporters.weights.parsing import summarize_error
from runtime.artifact.manifest import Weights

_CONFIGURATION = ("*.json", "*.txt", "*.model")
_SAFETENSORS = ("model*.safetensors", "*/model.safetensors")
_OTHER_FORMATS = (
    "onnx",
    "openvino",
    "coreml",
    "gguf",
    "original",
    ".gguf",
    ".onnx",
    ".h5",
    ".msgpack",
    ".ot",
    ".tflite",
)
_PICKLED = ("pytorch_model*.bin", "*/pytorch_model.bin")  # read with weights_only; older models have nothing else


def find_folder(source: FolderSource | HubModelSource, options: ExportOptions) -> tuple[Path, Weights]:
    """Return the folder of a model, and the record of its weights. Download a model of the hub into the hub's cache.

    Code in the repository is downloaded only with ``trust_remote_code``.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or does not have the model.
        WeightsError: The weights cannot be read.
    """
    if isinstance(source, FolderSource):
        return source.path, describe_folder(source.path, options.weights_ref)
    model_id, revision = source.model_id, source.revision
    try:
        try:
            files = HfApi().list_repo_files(model_id, revision=revision)
        except Exception:  # noqa: BLE001  without a network, a snapshot in the cache is enough
            folder = _download(model_id, revision, local_files_only=True)
        else:
            code = options.trust_remote_code
            folder = _download(model_id, revision, *(name for name in files if _is_needed(name, files, code=code)))
    except Exception as exc:  # the hub's client raises a dozen types, and its HTTP library others
        raise WeightsUnavailableError(
            f"cannot download {model_id} ({summarize_error(exc)}); name the folder of a copy of it instead"
        ) from exc
    record = describe_folder(folder, options.weights_ref)
    if record.origin == "random":
        return folder, record
    return folder, replace(record, origin="pretrained", description=f"hub {model_id}", revision=folder.name)


def _is_needed(name: str, files: Sequence[str], *, code: bool) -> bool:
    """Tell whether a file of a repository is needed: settings, tokenizer, and the weights of torch in one format."""
    path = PurePosixPath(name)
    if path.parts[0] in _OTHER_FORMATS or path.suffix in _OTHER_FORMATS:
        return False
    if path.suffix == ".py":
        return code
    siblings = [other for other in map(PurePosixPath, files) if other.parent == path.parent]
    pickled = path.suffix in (".bin", ".pt", ".pth", ".ckpt")
    return not (pickled and any(other.suffix == ".safetensors" for other in siblings))


def find_model(source: HubSource, weights: Pretrained | ModelFolder) -> tuple[Path, Weights]:
    """Return the folder that holds a model, and the record of its weights. Download the missing files from the hub.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or does not have the model.
        WeightsError: The folder holds no weights.
    """
    if isinstance(weights, ModelFolder):
        return weights.path, describe_folder(weights.path, weights)
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
    record = describe_folder(folder, weights)
    description = f"hub {model_id}"
    return folder, replace(
        record, origin="pretrained", description=description, revision=folder.name, licence=source.licence
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


def _download(model_id: str, revision: str | None, *patterns: str, local_files_only: bool = False) -> Path:
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)  # each retry would print a line among the stages
    try:
        allowed = list(patterns) or None
        return Path(
            snapshot_download(model_id, revision=revision, allow_patterns=allowed, local_files_only=local_files_only)
        )
    finally:
        hub_logging.set_verbosity(verbosity)
