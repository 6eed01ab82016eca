"""State dicts from files: read without running code, compared key by key, and hashed."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from exporters.errors import WeightsError, WeightsMismatchError, WeightsUnavailableError
from runtime.artifact.manifest import Weights
from runtime.artifact.reader import record_file

_LISTED = 5
_SAVE = "write it with torch.save(model.state_dict(), path)"
_CONTAINERS = ("state_dict", "model_state_dict", "model")  # what training scripts save beside an optimizer's state
_WRAPPERS = ("module.", "_orig_mod.", "model.", "_model.")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A state dict, and where it came from.

    Attributes:
        state_dict: Tensors by name.
        source: What names it in a message.
        record: Where it came from.
    """

    state_dict: Mapping[str, Tensor]
    source: str
    record: Weights


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a file as :func:`read_state_dict` does, and hashes it."""
    state_dict = read_state_dict(path)
    name = printable(path.name)
    record = Weights(origin="file", description=name, file=name, sha256=record_file(path).sha256)
    return Checkpoint(state_dict=state_dict, source=str(path), record=record)


def read_state_dict(path: Path, source: str | None = None) -> dict[str, Tensor]:
    """Returns the tensors of a ``.pt``, ``.pth``, ``.bin`` or ``.safetensors`` file by name; no code in it is run.

    Args:
        path: The file.
        source: What names it in a message, if it is not ``path``.

    Raises:
        WeightsUnavailableError: There is no such file.
        WeightsError: It is not a state dict.
    """
    source = source or str(path)
    if path.is_dir():
        raise WeightsError(f"{source} is a folder; this backbone takes the file of a state dict")
    try:
        damaged = zipfile.ZipFile(path).testzip() if zipfile.is_zipfile(path) else None  # torch.load checks no sums
        content = None if damaged else _load(path)
    except FileNotFoundError:
        raise WeightsUnavailableError(
            f"there is no file {source}; --weights takes `pretrained`, `random` or the path of a state dict"
        ) from None
    except PermissionError as exc:
        raise WeightsError(f"there is no permission to read {source}; change its mode, or copy it") from exc
    except Exception as exc:  # pickle, zip and torch raise whatever a damaged file makes them trip over
        raise WeightsError(
            f"{source} cannot be read: it is damaged, or holds more than tensors, such as a whole model; {_SAVE}"
        ) from exc
    if damaged:
        raise WeightsError(f"{source} is damaged at {damaged}; copy or download it again")
    for container in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            content = content[container]
    if not isinstance(content, dict) or not content or not all(map(_is_entry, content.keys(), content.values())):
        names = ", ".join(map(str, list(content)[:_LISTED])) if isinstance(content, dict) else type(content).__name__
        raise WeightsError(f"{source} is no state dict of tensors by name, but holds {names or 'nothing'}; {_SAVE}")
    return content


def load_into(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    unused: tuple[str, ...] = (),
    source: str,
    way_out: str = "export it under the backbone that it was trained as",
) -> None:
    """Loads ``state_dict`` into ``model``, where every key has to fit, but those of parts that are not exported.

    A head is not, so a checkpoint may have another one (a fine-tuned number of classes) or none.

    Args:
        model: The model to fill.
        state_dict: Tensors by name.
        unused: Names of the submodules and tensors that are left alone.
        source: What names the checkpoint in a message.
        way_out: What to do if it does not fit.

    Raises:
        WeightsMismatchError: Keys are missing, unexpected or of another shape.
    """
    everything = model.state_dict()
    expected = {key: value for key, value in everything.items() if not is_part_of(key, unused)}
    unwrapped = unwrap(state_dict, everything)
    given = {key: value for key, value in unwrapped.items() if not is_part_of(key, unused)}
    tied = {expected[key].data_ptr() for key in given if key in expected}  # of two names of one tensor, one is enough
    # checkpoints of before torch 0.4.1 have no such counters, and inference does not read them
    missing = [
        key
        for key, value in expected.items()
        if key not in given and value.data_ptr() not in tied and not key.endswith(".num_batches_tracked")
    ]
    unexpected = [key for key in given if key not in expected]
    reshaped = [
        f"{key} {list(value.shape)} instead of {list(expected[key].shape)}"
        for key, value in given.items()
        if key in expected and value.shape != expected[key].shape
    ]
    retyped = [
        f"{key} {value.dtype}"
        for key, value in given.items()
        if key in expected and value.is_floating_point() != expected[key].is_floating_point()
    ]
    faults = [
        f"{len(keys)} {name} ({some(keys)})"
        for name, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", reshaped),
            ("of another type", retyped),
        )
        if keys
    ]
    if faults:
        raise WeightsMismatchError(
            f"{source} does not fit {type(model).__name__}, keys: {', '.join(faults)}; {way_out}"
        )
    model.load_state_dict(given, strict=False)


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def is_part_of(key: str, parts: tuple[str, ...]) -> bool:
    """Tells whether a tensor's name is one of ``parts``, or within one."""
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def _is_entry(name: object, value: object) -> bool:
    """Tells whether this is a named, dense, real tensor, as parameters and buffers are."""
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return False
    return value.layout == torch.strided and not (value.is_complex() or value.is_quantized or value.is_meta)


def unwrap(state_dict: Mapping[str, Tensor], names: Iterable[str] = ()) -> Mapping[str, Tensor]:
    """Takes off the prefix that DataParallel, torch.compile or a training script put before every name.

    Args:
        state_dict: Tensors by name.
        names: Those of the model: what they begin with themselves is no wrapper's prefix.
    """
    for prefix in _WRAPPERS:
        wrapped = all(name.startswith(prefix) for name in state_dict)
        if state_dict and wrapped and not any(name.startswith(prefix) for name in names):
            return unwrap({name.removeprefix(prefix): value for name, value in state_dict.items()}, names)
    return state_dict


def random_record(model: nn.Module, seed: int) -> Weights:
    """Returns the record of a model with random weights."""
    return Weights(
        origin="random", description=f"random, seed {seed}", seed=seed, sha256=hash_values(model.state_dict())
    )


def printable(name: str) -> str:
    """Returns a file's name as text: a manifest holds text, a path may not."""
    return name.encode("utf-8", "backslashreplace").decode()


def hash_values(state_dict: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of names and values, for weights that are in no file."""
    digest = hashlib.sha256()
    for name, value in state_dict.items():
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def some(keys: list[str]) -> str:
    """Returns the first few of ``keys`` for a message."""
    return ", ".join(keys[:_LISTED]) + (", ..." if len(keys) > _LISTED else "")
