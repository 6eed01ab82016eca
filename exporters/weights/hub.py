"""Models on the Hugging Face hub: downloaded into its cache, and described."""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, get_cached_repo_tree, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import CachedRepoTreeNotFoundError
from huggingface_hub.utils import logging as hub_logging

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import FolderSource, HubModelSource, HubSource
from exporters.catalogue.weights_ref import ModelFolder, Pretrained, RandomInit
from exporters.errors import WeightsUnavailableError
from exporters.weights.folder_kind import recognize_folder
from exporters.weights.model_folder import describe_folder
from exporters.weights.parsing import summarize_error
from runtime.artifact.manifest import Weights

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


@dataclass(frozen=True, kw_only=True)
class _HubRequest:
    """The files to take from a model on the hub.

    Attributes:
        model_id: Name on the hub.
        revision: Branch, tag or commit; ``None`` for the branch ``main``.
        code: Whether Python files are wanted.
        weights: Whether weights are wanted.
        settings: Whether the folder has to state all settings, such as the pooling.
        advice: The way out, for error messages.
    """

    model_id: str
    revision: str | None
    code: bool = False
    weights: bool = True
    settings: bool = True
    advice: str

    def choose(self, files: Sequence[str]) -> list[str]:
        """Return those of the repository's files that are wanted."""
        return choose_files(files, code=self.code, weights=self.weights)


def find_folder(source: FolderSource | HubModelSource, options: ExportOptions) -> tuple[Path, Weights]:
    """Return the folder of a model, and the record of its weights. Download a model of the hub into the hub's cache.

    Code in the repository is downloaded only with ``trust_remote_code``.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or does not have the model.
        WeightsError: The weights cannot be read.
    """
    if isinstance(source, FolderSource):
        return source.path, describe_folder(source.path, options.weights_ref)
    folder = _download_model(
        _HubRequest(
            model_id=source.model_id,
            revision=source.revision,
            code=options.trust_remote_code,
            weights=not isinstance(options.weights_ref, RandomInit),
            advice="name the folder of a copy of it instead",
        )
    )
    record = describe_folder(folder, options.weights_ref)
    if record.origin == "random":
        return folder, record
    return folder, replace(record, origin="pretrained", description=f"hub {source.model_id}", revision=folder.name)


def _download_model(request: _HubRequest) -> Path:
    """Return the snapshot of a model. Without a network, a snapshot in the cache is enough.

    The client is given the branch, not its commit. So the cache records the branch, and finds it without a network.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or does not have the model.
    """
    try:
        info = HfApi().model_info(request.model_id, revision=request.revision)
        files = [file.rfilename for file in info.siblings or ()]
        folder = _download(request.model_id, request.revision, *request.choose(files))
    except Exception as exc:  # noqa: BLE001  the hub's client raises a dozen types, and its HTTP library others
        return _find_cached(request, exc)
    if folder.name != info.sha:
        raise WeightsUnavailableError(f"{request.model_id} got a new commit during the download; export it again")
    return folder


def _find_cached(request: _HubRequest, cause: Exception) -> Path:
    """Return the snapshot of a model in the cache; ``cause`` is the error of its download.

    Raises:
        WeightsUnavailableError: There is none, a file of it is missing, or its settings may be missing.
    """
    failed = f"cannot download {request.model_id} ({summarize_error(cause)})"
    try:
        files = _list_cached(request)
        folder = _download(request.model_id, request.revision, *request.choose(files), local_files_only=True)
    except Exception:  # noqa: BLE001  the first error tells more
        raise WeightsUnavailableError(f"{failed}; {request.advice}") from cause
    if request.settings and not files and _may_lack_modules(request.model_id, folder):
        raise WeightsUnavailableError(
            f"{failed}, and the cache may hold only a part of the model: it has no modules.json, which would state the "
            f"pooling; connect to the hub once; without a network, {request.advice}"
        ) from cause
    return folder


def _list_cached(request: _HubRequest) -> list[str]:
    """Return the model's files by the listing in the cache. Programs that download single files leave no listing."""
    try:
        return [file.path for file in get_cached_repo_tree(request.model_id, revision=request.revision)]
    except CachedRepoTreeNotFoundError:
        return []


def _may_lack_modules(model_id: str, folder: Path) -> bool:
    """Tell whether a snapshot is a text model without the modules.json that the hub may have.

    The cache records that a program asked for a file which does not exist.
    """
    if not (folder / "config.json").is_file() or recognize_folder(folder) != "text":
        return False
    return try_to_load_from_cache(model_id, "modules.json", revision=folder.name) is None


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
    request = _HubRequest(model_id=source.model_id, revision=source.revision, advice=advice)
    folder = _download_model(request)
    record, description = describe_folder(folder, weights), f"hub {source.model_id}"
    return folder, replace(
        record, origin="pretrained", description=description, revision=folder.name, licence=source.licence
    )


def download_tokenizer(model_id: str, revision: str | None, *, settings: bool = False) -> Path:
    """Return the folder of the hub's cache that holds a model's configuration and tokenizer, without its weights.

    ``settings`` tells whether the settings beside the tokenizer are read too, such as the pooling.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or does not have the model.
    """
    advice = "give a folder with its tokenizer by --tokenizer, because a state dict has none"
    request = _HubRequest(model_id=model_id, revision=revision, weights=False, settings=settings, advice=advice)
    return _download_model(request)


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
