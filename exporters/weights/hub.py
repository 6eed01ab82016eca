"""Models on the Hugging Face hub: downloaded into its cache, and described."""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.utils import logging as hub_logging

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import FolderSource, HubModelSource, HubSource
from exporters.catalogue.weights_ref import ModelFolder, Pretrained, RandomInit
from exporters.errors import WeightsUnavailableError
from exporters.weights.model_folder import describe_folder
from exporters.weights.parsing import summarize_error
from runtime.artifact.manifest import Weights

_ADVICE = "name the folder of a copy of it instead"
_CONFIGURATION = ("*.json", "*.txt", "*.model")
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
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def find_folder(source: FolderSource | HubModelSource, options: ExportOptions) -> tuple[Path, Weights]:
    """Return the folder of a model, and the record of its weights. Download a model of the hub into the hub's cache.

    Code in the repository is downloaded only with ``trust_remote_code``.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or does not have the model.
        WeightsError: The weights cannot be read.
    """
    if isinstance(source, FolderSource):
        return source.path, describe_folder(source.path, options.weights_ref)
    random = isinstance(options.weights_ref, RandomInit)
    folder = _download_model(
        source.model_id, source.revision, code=options.trust_remote_code, weights=not random, advice=_ADVICE
    )
    record = describe_folder(folder, options.weights_ref)
    if record.origin == "random":
        return folder, record
    return folder, replace(record, origin="pretrained", description=f"hub {source.model_id}", revision=folder.name)


def _download_model(
    model_id: str, revision: str | None, *, code: bool = False, weights: bool = True, advice: str
) -> Path:
    """Return the snapshot of a model. Without a network, a snapshot in the cache is enough."""
    try:
        info = HfApi().model_info(model_id, revision=revision)
        files = [file.rfilename for file in info.siblings or ()]
        return _download(model_id, info.sha, *choose_files(files, code=code, weights=weights))
    except Exception as exc:  # noqa: BLE001  the hub's client raises a dozen types, and its HTTP library others
        try:
            return _download(model_id, revision, local_files_only=True)
        except Exception:  # noqa: BLE001  the first error tells more
            raise WeightsUnavailableError(f"cannot download {model_id} ({summarize_error(exc)}); {advice}") from exc


def choose_files(files: Sequence[str], *, code: bool, weights: bool = True) -> list[str]:
    """Return the files of a repository that torch needs: settings, tokenizer, and the weights in one format.

    Args:
        files: Paths in the repository.
        code: Whether Python files are wanted.
        weights: Whether weights are wanted.
    """
    plain = {PurePosixPath(name).parent for name in files if name.endswith(".safetensors")}
    needed = [name for name in files if _is_needed(PurePosixPath(name), plain, code=code)]
    return [name for name in needed if weights or PurePosixPath(name).suffix not in (".safetensors", *_PICKLES)]


def _is_needed(path: PurePosixPath, plain: Set[PurePosixPath], *, code: bool) -> bool:
    """Tell whether a file is needed; ``plain`` are the folders that have safetensors."""
    if path.parts[0] in _OTHER_FORMATS or path.suffix in _OTHER_FORMATS:
        return False
    if path.suffix == ".py":
        return code
    return path.suffix not in _PICKLES or path.parent not in plain


def find_model(source: HubSource, weights: Pretrained | ModelFolder) -> tuple[Path, Weights]:
    """Return the folder of a backbone of the catalogue, and the record of its weights, which may be downloaded.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or does not have the model.
        WeightsError: The folder holds no weights.
    """
    if isinstance(weights, ModelFolder):
        return weights.path, describe_folder(weights.path, weights)
    advice = "use --weights FOLDER with a copy of it, or --weights random"
    folder = _download_model(source.model_id, source.revision, advice=advice)
    record, description = describe_folder(folder, weights), f"hub {source.model_id}"
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
