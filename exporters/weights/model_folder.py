"""Folders in the layouts of the Hugging Face libraries: from the hub or of the user's own; which weights they hold."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.utils import logging as hub_logging
from optimum.exporters.tasks import TasksManager
from transformers.utils import logging as transformers_logging

from exporters.errors import WeightsError, WeightsMismatchError, WeightsUnavailableError
from exporters.weights.state_dict import is_part_of, printable, some
from runtime.artifact.manifest import Weights
from runtime.artifact.reader import record_file
from runtime.errors import UsageError

_CONFIGURATION = ("*.json", "*.txt", "*.model")
_SAFETENSORS = ("model*.safetensors", "*/model.safetensors")
_PICKLED = ("pytorch_model*.bin", "*/pytorch_model.bin")  # read with weights_only; older models have nothing else
_LIBRARIES = ("transformers", "sentence_transformers")


def download(model_id: str, revision: str | None) -> Path:
    """Returns the folder of the hub's cache that holds a model, downloading what is not there yet.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or has no such model.
    """
    try:
        folder = _download(model_id, revision, *_CONFIGURATION, *_SAFETENSORS)
        if not all(find_weights(part) for part in _parts(folder)):
            _download(model_id, revision, *_CONFIGURATION, *_SAFETENSORS, *_PICKLED)
    except Exception as exc:  # the hub's client raises a dozen types, and its HTTP library others
        raise WeightsUnavailableError(
            f"cannot download {model_id} ({first_line(exc)}); take --weights FOLDER with a copy of it, or --weights "
            "random"
        ) from exc
    return folder


def download_tokenizer(model_id: str, revision: str | None) -> Path:
    """Returns the folder of the hub's cache that holds a model's configuration and tokenizer, without its weights.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or has no such model.
    """
    try:
        return _download(model_id, revision, *_CONFIGURATION)
    except Exception as exc:  # as above
        raise WeightsUnavailableError(
            f"a state dict comes without a tokenizer, and that of {model_id} cannot be downloaded ({first_line(exc)}); "
            "name a folder that holds it by --tokenizer"
        ) from exc


def _download(model_id: str, revision: str | None, *patterns: str) -> Path:
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)  # each retry would be a line among our stages; the last error is told
    try:
        return Path(snapshot_download(model_id, revision=revision, allow_patterns=list(patterns)))
    finally:
        hub_logging.set_verbosity(verbosity)


def check_tokenizer_is_needed(tokenizer: Path | None, weights: str) -> None:
    """Refuses a tokenizer for weights that bring their own, which would be ignored.

    Raises:
        UsageError: There is one.
    """
    if tokenizer is not None:
        raise UsageError(f"--tokenizer is for weights that come without one, and {weights} brings its own")


def describe_hub(model_id: str, folder: Path, licence: str | None) -> Weights:
    """Returns the record of weights that :func:`download` brought."""
    files = find_weights(folder)
    return Weights(
        origin="pretrained",
        description=f"hub {model_id}",
        revision=folder.name,
        file=files[0].name if files else None,
        sha256=_hash(folder, files),
        licence=licence,
    )


def describe_folder(folder: Path) -> Weights:
    """Returns the record of weights in a folder of the user's own.

    Raises:
        WeightsUnavailableError: There is no such folder.
        WeightsError: It holds no weights.
    """
    if not folder.is_dir():
        raise WeightsUnavailableError(
            f"there is no folder {folder}; --weights takes `pretrained`, `random` or a folder in the layout of "
            "transformers or sentence-transformers"
        )
    files = find_weights(folder)
    sha256 = _hash(folder, files)
    return Weights(origin="file", description=printable(folder.resolve().name), file=files[0].name, sha256=sha256)


def find_weights(folder: Path) -> list[Path]:
    """Returns the files that hold a folder's weights, empty for none: one, or the shards of one, safetensors first.

    Raises:
        WeightsError: The index of the shards is damaged, or names files elsewhere.
    """
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            with reading(folder / index):
                shards = sorted({str(shard) for shard in read_json(folder / index)["weight_map"].values()})
            if any(Path(shard).name != shard for shard in shards):
                raise WeightsError(f"{folder / index} names files outside its folder; download the model again")
            return [folder / shard for shard in shards]
    return []


def check_library(folder: Path) -> None:
    """Makes sure, before anything is loaded, that a folder is of a library whose layout we read.

    Raises:
        WeightsMismatchError: It is of another one; the message names it.
        WeightsError: It is of none.
    """
    if (folder / "adapter_config.json").is_file():
        raise WeightsError(f"{folder} holds an adapter beside its model; merge it first, with merge_and_unload")
    try:
        library = TasksManager.infer_library_from_model(str(folder))
    except Exception as exc:  # optimum raises whatever a strange folder makes it trip over
        raise WeightsError(
            f"{folder} holds no model in the layout of transformers or sentence-transformers, which begins with a "
            "config.json; save it with save_pretrained"
        ) from exc
    if library not in _LIBRARIES:
        raise WeightsMismatchError(
            f"{folder} is a model of {library}, where one of transformers or sentence-transformers is expected"
        )


def load_with_transformers(loader: Any, folder: Path, family: str, ignored: tuple[str, ...] = ()) -> Any:
    """Returns what ``loader.from_pretrained`` gives for ``folder``, in float32 and evaluation mode.

    Args:
        loader: One of transformers' classes.
        folder: In its layout.
        family: The architecture's name, for the message.
        ignored: Submodules and tensors that may be missing, since they are not exported.

    Raises:
        WeightsError: transformers cannot load it.
        WeightsMismatchError: It lacks weights, which transformers would fill with random values, or has more than the
            architecture takes, which it would leave out; it only logs either.
    """
    try:
        with _quiet():
            model, report = loader.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, dtype="float32", output_loading_info=True
            )
    except Exception as exc:  # transformers raises whatever a damaged or strange folder makes it trip over
        raise WeightsError(f"{folder} cannot be loaded by transformers ({first_line(exc)})") from exc
    missing = [key for key in report["missing_keys"] if not is_part_of(key, ignored)]
    if missing:
        raise WeightsMismatchError(
            f"{folder} lacks {len(missing)} weights of its {family} ({some(sorted(missing))}); save it whole with "
            "save_pretrained"
        )
    unread = [key for key in report["unexpected_keys"] if _is_of_encoder(key, model, ignored)]
    if unread:
        raise WeightsMismatchError(
            f"{folder} has {len(unread)} weights that its {family} has no place for ({some(sorted(unread))}); mend its "
            "config.json"
        )
    return model.eval()


def _is_of_encoder(key: str, model: Any, ignored: tuple[str, ...]) -> bool:
    """Tells whether a weight belongs to what is exported, and not to a head that some training put on it."""
    inner = key.removeprefix(f"{model.base_model_prefix}.")
    return is_part_of(inner, tuple(name for name, _ in model.named_children())) and not is_part_of(inner, ignored)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers from drawing bars and tables among our stages; what it would report is looked at instead."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turns what a file of the wrong form makes its reader trip over into one of ours.

    Raises:
        WeightsError: It does; the message names ``path``.
    """
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as exc:
        raise WeightsError(
            f"{path} is not of the form that it should have ({type(exc).__name__}: {first_line(exc)}); save it again "
            "with its own library"
        ) from exc


def read_json(path: Path) -> Any:
    """Returns what a JSON file holds.

    Raises:
        WeightsError: It cannot be read.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise WeightsError(f"{path} cannot be read ({exc})") from exc


def first_line(exc: BaseException) -> str:
    """Returns the first line of an error, whose rest is often a page of advice for another library."""
    first, *_ = str(exc).splitlines() or [type(exc).__name__]
    return first


def _parts(folder: Path) -> list[Path]:
    """Returns the folders that need weights: the model's own, and those of its linear layers."""
    return [folder, *(path.parent for path in folder.glob("*_Dense/config.json"))]


def _hash(folder: Path, files: list[Path]) -> str:
    """Returns the hash of the one file; of shards, that of their names and hashes."""
    try:
        hashes = {file.name: record_file(file).sha256 for file in files}
    except OSError as exc:
        raise WeightsError(f"{exc.filename} cannot be read ({exc.strerror}); copy or download it again") from exc
    if not hashes:
        raise WeightsError(
            f"{folder} holds neither model.safetensors nor pytorch_model.bin; save the model with save_pretrained"
        )
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
