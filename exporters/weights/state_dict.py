"""State dicts from files: read without running code, compared key by key, and hashed."""

from __future__ import annotations

import hashlib
import zipfile
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from exporters.catalogue.weights_ref import ModelFolder, StateDict
from exporters.errors import WeightsError, WeightsMismatchError, WeightsUnavailableError
from runtime.artifact.manifest import Weights
from runtime.artifact.reader import record_file

_LISTED = 5
_HOW_TO_SAVE = "write it with torch.save(model.state_dict(), path)"
# Arguments of a training script, such as those of torchvision and timm. Reading them runs no code.
_ARGUMENTS: list[Any] = [Namespace]
_COUNTER = "n_averaged"  # of torch's AveragedModel, beside the averages
_ADVICE = "export it under the backbone that it was trained as"
_NAMES_OF_FOLDER = "give a checkpoint with the names of the folder's model, and without a head, as `fit` writes it"
_CONTAINERS = ("state_dict", "model_state_dict", "model")  # training scripts save these beside an optimizer's state
_WRAPPERS = ("module.", "_orig_mod.", "model.", "_model.")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A state dict and its origin. ``source`` is its name in error messages."""

    state_dict: Mapping[str, Tensor]
    source: str
    record: Weights


def read_checkpoint(weights: StateDict | ModelFolder | Checkpoint) -> Checkpoint:
    """Read a file as :func:`read_state_dict` does, and hash it. A checkpoint in memory is returned as it is."""
    if isinstance(weights, Checkpoint):
        return weights
    path = weights.path
    state_dict, name = read_state_dict(path), escape_name(path.name)
    record = Weights(origin="file", description=name, file=name, sha256=record_file(path).sha256)
    return Checkpoint(state_dict=state_dict, source=str(path), record=record)


def read_state_dict(path: Path, source: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a file by name. Code in it is not run.

    Args:
        path: A ``.safetensors`` file, or one of ``torch.save``: ``.pt``, ``.pth``, ``.ckpt`` or ``.bin``.
        source: Name of the file in error messages; ``None`` for ``path``.

    Raises:
        WeightsUnavailableError: The file does not exist.
        WeightsError: The file is not a state dict.
    """
    source = source or str(path)
    if path.is_dir():
        raise WeightsError(f"{source} is a folder; this backbone takes the file of a state dict")
    try:
        # torch.load does not check the checksums of the zip file
        damaged = zipfile.ZipFile(path).testzip() if zipfile.is_zipfile(path) else None
        content: Any = None
        if not damaged:
            content = load_file(path) if path.suffix == ".safetensors" else _load_pickle(path)
    except FileNotFoundError:
        raise WeightsUnavailableError(
            f"there is no file {source}; --weights takes `pretrained`, `random` or the path of a state dict"
        ) from None
    except PermissionError as exc:
        raise WeightsError(f"there is no permission to read {source}; change its mode, or copy it") from exc
    except Exception as exc:  # pickle, zipfile and torch raise many types for a damaged file
        raise WeightsError(f"{source} cannot be read: {_find_cause(path)}; {_HOW_TO_SAVE}") from exc
    if damaged:
        raise WeightsError(f"{source} is damaged at {damaged}; copy or download it again")
    for container in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            _refuse_copies(content, container, source)
            content = content[container]
    inside = [name for name, value in content.items() if _is_state_dict(value)] if isinstance(content, dict) else []
    if inside:
        _refuse_copies(content, inside[0], source)
    if len(inside) == 1:
        content = content[inside[0]]
    if not _is_state_dict(content):
        found = ", ".join(map(str, list(content)[:_LISTED])) if isinstance(content, dict) else type(content).__name__
        raise WeightsError(
            f"{source} is not a state dict of tensors by name: it holds {found or 'nothing'}; {_HOW_TO_SAVE}"
        )
    return {name: value for name, value in content.items() if name != _COUNTER}


def _load_pickle(path: Path) -> Any:
    with torch.serialization.safe_globals(_ARGUMENTS):
        return torch.load(path, map_location="cpu", weights_only=True)


def _find_cause(path: Path) -> str:
    """Return why a file cannot be read."""
    try:
        with torch.serialization.safe_globals(_ARGUMENTS):
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # as for the reading  # noqa: BLE001
        unsafe = []
    if not unsafe:
        return "it is damaged, or holds more than tensors"
    return (
        f"it holds objects whose reading may run code ({abbreviate(sorted(unsafe))}); if you trust it, take its state "
        "dict out of torch.load(path, weights_only=False)"
    )


def _refuse_copies(content: Mapping[Any, Any], container: str, source: str) -> None:
    """Check that only ``container`` holds weights of its names. Training scripts also save moving averages of them.

    Raises:
        WeightsError: Another entry holds weights of the same names.
    """
    names = _tensor_names(content[container])
    copies = [str(name) for name, value in content.items() if name != container and _tensor_names(value) & names]
    if copies:
        raise WeightsError(
            f"{source} holds weights of the same names in {container} and {', '.join(copies)}; if you trust the file, "
            f"choose one, and write it with torch.save(torch.load(path, weights_only=False)[{copies[0]!r}], new_path)"
        )


def _tensor_names(content: object) -> set[str]:
    """Return the names of all tensors in nested dicts, without the prefix of an averaged model."""
    if not isinstance(content, dict):
        return set()
    names = {str(name).removeprefix("module.") for name, value in content.items() if isinstance(value, Tensor)}
    return names.union(*map(_tensor_names, content.values()))


def load_into(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    ignored: tuple[str, ...] = (),
    source: str,
    advice: str = _ADVICE,
    names: Iterable[str] | None = None,
    added: str = "",
) -> None:
    """Load ``state_dict`` into ``model``. Every key has to fit, except those of ``ignored`` parts.

    A head is not exported, so a checkpoint may have no head, or a head with another number of classes.

    Args:
        model: The model to fill.
        state_dict: Tensors by name.
        ignored: Names of submodules and tensors that are not loaded.
        source: Name of the checkpoint in error messages.
        advice: Advice for a checkpoint that does not fit.
        names: Names in the file; ``None`` for those of ``state_dict``.
        added: Prefix that the names of the model have, and those in the file have not.

    Raises:
        WeightsMismatchError: Keys are missing, unexpected, or have another shape or type.
        WeightsError: Values are NaN.
    """
    everything = model.state_dict()
    expected = {key: value for key, value in everything.items() if not is_part_of(key, ignored)}
    unwrapped = unwrap(state_dict, everything)
    given = {key: value for key, value in unwrapped.items() if not is_part_of(key, ignored)}
    _refuse_nan(given, source)
    fits = {key.removeprefix(added) for key in expected}
    advice = _advise_on_prefixes(state_dict if names is None else names, fits) or advice
    _check_fit(given, expected, f"{source} does not fit {type(model).__name__}", advice)
    everything.update(given)  # keeps the versions of the model's modules, which some of them ask for
    model.load_state_dict(everything, strict=False)


def copy_into(tensors: Mapping[str, Tensor], checkpoint: Checkpoint, *, partly: bool) -> None:
    """Copy the values of a checkpoint into tensors of the same names, in place.

    Args:
        tensors: Tensors by name.
        checkpoint: The checkpoint.
        partly: Whether it may have other tensors, too.

    Raises:
        WeightsMismatchError: As for :func:`load_into`.
        WeightsError: Values are NaN.
    """
    given = unwrap(checkpoint.state_dict, tensors)
    given = {name: value for name, value in given.items() if name in tensors or not partly}
    _refuse_nan(given, checkpoint.source)
    advice = _advise_on_prefixes(checkpoint.state_dict, tensors) or _NAMES_OF_FOLDER
    _check_fit(given, tensors, f"{checkpoint.source} does not fit the model", advice)
    with torch.no_grad():
        for name, value in given.items():
            tensors[name].copy_(value)


def _refuse_nan(given: Mapping[str, Tensor], source: str) -> None:
    if diverged := [key for key, value in given.items() if value.is_floating_point() and value.isnan().any()]:
        raise WeightsError(
            f"{source} has NaN in {abbreviate(diverged)}: its training diverged; use an earlier checkpoint"
        )


def _check_fit(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], fault: str, advice: str) -> None:
    pairs = [(key, value, expected[key]) for key, value in given.items() if key in expected]
    tied = {wanted.data_ptr() for _, _, wanted in pairs}  # one of two names of a tensor is enough
    faults = {
        # checkpoints of torch before 0.4.1 have no such counters, and inference does not read them
        "missing": [
            key
            for key, value in expected.items()
            if key not in given and value.data_ptr() not in tied and not key.endswith(".num_batches_tracked")
        ],
        "unexpected": [key for key in given if key not in expected],
        "of another shape": [
            f"{key} {list(value.shape)} instead of {list(wanted.shape)}"
            for key, value, wanted in pairs
            if value.shape != wanted.shape
        ],
        "of another type": [
            f"{key} {value.dtype}"
            for key, value, wanted in pairs
            if value.is_floating_point() != wanted.is_floating_point()
        ],
    }
    listed = [f"{len(keys)} {kind} ({abbreviate(keys)})" for kind, keys in faults.items() if keys]
    if listed:
        raise WeightsMismatchError(f"{fault}, keys: {', '.join(listed)}; {advice}")


def _advise_on_prefixes(names: Iterable[str], expected: Iterable[str]) -> str:
    """Return how to take off a prefix that all ``expected`` names have in a file; empty if they have none there."""
    names, wanted = set(names), [key for key in expected if not key.endswith(".num_batches_tracked")]
    found = {name.removesuffix(wanted[0]) for name in names if wanted and name.endswith(f".{wanted[0]}")}
    prefixes = sorted(prefix for prefix in found if names.issuperset(prefix + name for name in wanted))
    if not prefixes:
        return ""
    first = repr(prefixes[0])
    return (
        f"the names that fit begin with {' or '.join(prefixes)}; save only them, and without it: "
        f"{{name.removeprefix({first}): x for name, x in state_dict.items() if name.startswith({first})}}"
    )


def check_head(model: nn.Module, checkpoint: Checkpoint, widths: Mapping[str, int]) -> None:
    """Check that the head of a checkpoint, which is not exported, takes the vectors of the backbone.

    Args:
        model: The backbone.
        checkpoint: The state dict that was loaded into it.
        widths: Number of inputs of each weight of the head, by key; see :func:`head_widths`.

    Raises:
        WeightsMismatchError: A weight has another number of inputs.
    """
    state_dict = unwrap(checkpoint.state_dict, model.state_dict())
    for key, width in widths.items():
        weight = state_dict.get(key)
        if weight is not None and weight.ndim > 1 and weight.shape[1] != width:
            raise WeightsMismatchError(
                f"{checkpoint.source} has {key} for vectors of {weight.shape[1]} numbers, and the backbone gives "
                f"{width}: it was trained with another pooling, which a file does not state; name a folder that its "
                "library saved, or take the head out of the file"
            )


def head_widths(model: nn.Module, head: str) -> dict[str, int]:
    """Return the number of inputs of each weight in the submodule ``head``, by key."""
    weights = {key: value for key, value in model.state_dict().items() if is_part_of(key, (head,))}
    return {key: value.shape[1] for key, value in weights.items() if value.ndim > 1}


def is_part_of(key: str, parts: tuple[str, ...]) -> bool:
    """Tell whether the name of a tensor is one of ``parts``, or lies within one."""
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def _is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(_is_entry, value.keys(), value.values()))


def _is_entry(name: object, value: object) -> bool:
    """Tell whether ``value`` is a named, dense, real tensor, as parameters and buffers are."""
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return False
    return value.layout == torch.strided and not (value.is_complex() or value.is_quantized or value.is_meta)


def unwrap(state_dict: Mapping[str, Tensor], names: Iterable[str] = ()) -> Mapping[str, Tensor]:
    """Remove the prefix that DataParallel, torch.compile or a training script put before every name.

    Args:
        state_dict: Tensors by name.
        names: Names of the model's own tensors. A prefix that they have is not removed.
    """
    for prefix in _WRAPPERS:
        wrapped = all(name.startswith(prefix) for name in state_dict)
        if state_dict and wrapped and not any(name.startswith(prefix) for name in names):
            return unwrap({name.removeprefix(prefix): value for name, value in state_dict.items()}, names)
    return state_dict


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch draw random weights from ``seed`` in the block, and restore its generator afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def record_random(model: nn.Module, seed: int) -> Weights:
    """Return the record of a model with random weights."""
    return Weights(origin="random", description=f"random, seed {seed}", seed=seed, sha256=hash_values(model))


def complete_record(weights: Weights, model: nn.Module) -> Weights:
    """Return the record of a folder's weights; for random ones with the hash of ``model``."""
    return weights if weights.seed is None else replace(weights, sha256=hash_values(model))


def hash_values(model: nn.Module) -> str:
    """Return the SHA-256 of the names and values of a model's state dict."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def escape_name(name: str) -> str:
    """Return a file name as valid text. A manifest holds text, but a file name may hold any bytes."""
    return name.encode("utf-8", "backslashreplace").decode()


def abbreviate(keys: list[str]) -> str:
    """Return the first few of ``keys``, for an error message."""
    return ", ".join(keys[:_LISTED]) + (", ..." if len(keys) > _LISTED else "")
