"""Folders in the layout of transformers or sentence-transformers: their library, files, tokenizer and model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from optimum.exporters.tasks import TasksManager
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from exporters.catalogue.weights_ref import RandomInit, WeightsRef
from exporters.errors import WeightsError, WeightsMismatchError
from exporters.weights.parsing import parsing, read_json, summarize_error
from exporters.weights.state_dict import abbreviate, escape_name, is_part_of, seeded
from runtime.artifact.manifest import Weights, seal
from runtime.artifact.reader import record_file
from runtime.errors import MissingDependencyError

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_LIBRARIES = ("transformers", "sentence_transformers")
_VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
    *("spm.model", "whitespacetokenizer_config.json"),
)
SAVE_TOKENIZER = "save one there with tokenizer.save_pretrained (tokenizer.json)"


def describe_folder(folder: Path, weights: WeightsRef) -> Weights:
    """Return the record of all weight files in a folder and its modules' folders; of random weights only the seed.

    The hash of random weights is left empty: the values exist only when the model is built.

    Raises:
        WeightsError: There are no weight files, or one cannot be read.
    """
    if isinstance(weights, RandomInit):
        return Weights(origin="random", description=f"random, seed {weights.seed}", seed=weights.seed, sha256="")
    own = find_weights(folder)
    found = sorted(path for pattern in ("*", "*/*") for path in folder.glob(pattern) if _is_weights(path))
    plain = {path.parent for path in found if path.suffix == ".safetensors"}
    files = [path for path in found if path.suffix == ".safetensors" or path.parent not in plain]
    description, digest = escape_name(folder.resolve().name), hash_weights(folder, files)
    return Weights(origin="file", description=description, file=(own or files)[0].name, sha256=digest)


def _is_weights(path: Path) -> bool:
    """Tell weights of a model from other files, and from the states of a trainer that lie beside them."""
    trainer = path.stem.startswith(("optimizer", "scheduler", "rng_state", "training_args"))
    return path.suffix in _WEIGHT_SUFFIXES and path.is_file() and not trainer


def find_weights(folder: Path) -> list[Path]:
    """Return the weight files of a folder: one file, or the shards of one; safetensors first. Empty if there are none.

    Raises:
        WeightsError: The index of the shards is damaged, or names files outside the folder.
    """
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            with parsing(folder / index):
                shards = sorted({str(shard) for shard in read_json(folder / index)["weight_map"].values()})
            if any(Path(shard).name != shard for shard in shards):
                raise WeightsError(f"{folder / index} names files outside its folder; download the model again")
            return [folder / shard for shard in shards]
    return []


def hash_weights(folder: Path, files: list[Path]) -> str:
    """Return the SHA-256 of the weight file; for shards, the SHA-256 of their names and hashes.

    Raises:
        WeightsError: There are no files, or a file cannot be read.
    """
    try:
        hashes = {file.relative_to(folder).as_posix(): record_file(file).sha256 for file in files}
    except OSError as exc:
        raise WeightsError(f"{exc.filename} cannot be read ({exc.strerror}); copy or download it again") from exc
    if not hashes:
        raise WeightsError(
            f"{folder} holds neither model.safetensors nor pytorch_model.bin; save the model with save_pretrained"
        )
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return seal(hashes)


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
        MissingDependencyError: As for :func:`load_tokenizer`.
    """
    if not has_vocabulary(folder):  # transformers would make an empty one
        raise WeightsError(f"{folder} holds no tokenizer; {SAVE_TOKENIZER}")
    tokenizer = load_tokenizer(folder)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise WeightsError(f"{folder} has no fast tokenizer, but a {type(tokenizer).__name__}; {SAVE_TOKENIZER}")
    if tokenizer.truncation_side != "right":
        raise WeightsError(f"{folder} cuts the beginning of long texts (truncation_side), expected the end")
    if len(tokenizer) > vocab_size:
        raise WeightsMismatchError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, and the model has embeddings for {vocab_size}; "
            "use the tokenizer of that model"
        )
    return tokenizer


def load_tokenizer(folder: Path, *, trusted: bool = False) -> Any:
    """Return the tokenizer in ``folder``, of any class of transformers. Code in the folder runs if it is trusted.

    Raises:
        WeightsError: transformers cannot load it.
        MissingDependencyError: It is a model of SentencePiece, and sentencepiece is not installed.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
    except Exception as exc:  # as for the configuration
        # transformers asks for tiktoken if sentencepiece is missing
        if any(folder.glob("*.model")) and not (folder / "tokenizer.json").is_file() and not _has_sentencepiece():
            raise MissingDependencyError(
                f"the tokenizer in {folder} is a model of SentencePiece, and sentencepiece is not installed; install "
                f"it with `pip install sentencepiece`, or {SAVE_TOKENIZER}"
            ) from exc
        raise WeightsError(
            f"{folder} holds no tokenizer that transformers loads ({summarize_error(exc)}); {SAVE_TOKENIZER}"
        ) from exc


def _has_sentencepiece() -> bool:
    return find_spec("sentencepiece") is not None


def check_library(folder: Path) -> None:
    """Check, before anything is loaded, that transformers or sentence-transformers wrote the folder.

    Raises:
        WeightsMismatchError: Another library wrote it; the message names the library.
        WeightsError: The layout is unknown, or there is an adapter in the folder.
    """
    if (folder / "adapter_config.json").is_file():
        raise WeightsError(f"{folder} holds an adapter beside its model; merge it first, with merge_and_unload")
    try:
        library = TasksManager.infer_library_from_model(str(folder))
    except Exception as exc:  # optimum raises many types for a folder that it does not know
        raise WeightsError(
            f"{folder} holds no model in the layout of transformers or sentence-transformers, which has a config.json; "
            "save it with save_pretrained"
        ) from exc
    if library not in _LIBRARIES:
        raise WeightsMismatchError(f"{folder} is a model of {library}, expected transformers or sentence-transformers")


def has_vocabulary(*folders: Path) -> bool:
    """Tell whether one of the folders holds the vocabulary of a tokenizer. Without one, transformers makes it up."""
    return any((folder / name).is_file() for folder in folders for name in _VOCABULARIES)


def build_model(loader: Any, folder: Path, config: Any, seed: int) -> Any:
    """Return the model that ``loader`` builds from a configuration, with random weights, in evaluation mode.

    Raises:
        WeightsError: transformers cannot build it; the message names ``folder``.
    """
    try:
        with seeded(seed), quiet_transformers():
            return getattr(loader, "from_config", loader)(config).eval()
    except Exception as exc:  # transformers raises many types for an unknown configuration
        raise WeightsError(f"{folder} cannot be built by transformers ({summarize_error(exc)})") from exc


def load_reported(loader: Any, folder: Path, ignored: tuple[str, ...] = ()) -> tuple[Any, frozenset[str]]:
    """Return the model that ``loader.from_pretrained`` loads, in float32 and evaluation mode, and its missing weights.

    Args:
        loader: A model class of transformers.
        folder: A folder in the layout of transformers.
        ignored: Submodules and tensors that may be missing, because they are not exported.

    Raises:
        WeightsError: transformers cannot load the model.
        WeightsMismatchError: As for :func:`check_load_report`.
    """
    try:
        with quiet_transformers():
            model, report = loader.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, dtype="float32", output_loading_info=True
            )
    except Exception as exc:  # transformers raises many types for a damaged or unknown folder
        raise WeightsError(f"{folder} cannot be loaded by transformers ({summarize_error(exc)})") from exc
    check_load_report(model, report, str(folder), ignored)
    return model.eval(), frozenset(report["missing_keys"])


def check_load_report(model: Any, report: Any, source: str, ignored: tuple[str, ...] = ()) -> None:
    """Check the report that ``from_pretrained(..., output_loading_info=True)`` returns beside a model.

    Args:
        model: The loaded model.
        report: The report.
        source: Name of the checkpoint in error messages.
        ignored: Submodules and tensors that may be missing, because they are not exported.

    Raises:
        WeightsMismatchError: Weights are missing, or the architecture has no place for some of them. transformers
            only logs a warning in both cases: it fills missing weights with random values.
    """
    architecture = model.config.model_type
    missing = [key for key in report["missing_keys"] if not is_part_of(key, ignored)]
    if missing:
        others = sorted(report["unexpected_keys"])
        # save_pretrained would write the adapter again
        adapted = getattr(model, "_hf_peft_config_loaded", False) or any(".base_layer." in key for key in others)
        advice = (
            "merge_and_unload the adapter in peft, and save the merged model" if adapted else "save the whole model"
        )
        raise WeightsMismatchError(
            f"{source} lacks {len(missing)} weights of its {architecture} ({abbreviate(sorted(missing))})"
            + f", and has {len(others)} others ({abbreviate(others)})" * bool(others)
            + f"; {advice} with save_pretrained"
        )
    unread = [key for key in report["unexpected_keys"] if _is_of_encoder(key, model, ignored)]
    if unread:
        raise WeightsMismatchError(
            f"{source} has {len(unread)} weights that its {architecture} has no place for "
            f"({abbreviate(sorted(unread))}); correct its config.json"
        )


def _is_of_encoder(key: str, model: Any, ignored: tuple[str, ...]) -> bool:
    """Tell whether a weight belongs to the exported encoder, and not to a head that was added for training."""
    inner = key.removeprefix(f"{model.base_model_prefix}.")
    return is_part_of(inner, tuple(name for name, _ in model.named_children())) and not is_part_of(inner, ignored)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from printing progress bars and tables among the stages."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
