"""The weights that a user asks for, parsed once from the string of ``--weights``."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from exporters.errors import WeightsError, WeightsUnavailableError
from runtime.errors import UsageError

RUN_METADATA = "metadata.yml"  # every model of a Finetuner run has one
_MAX_RUN_DEPTH = 4  # levels of folders above that file


@dataclass(frozen=True)
class Pretrained:
    """The published weights of a backbone, from its library or the hub."""


@dataclass(frozen=True)
class RandomInit:
    """Random weights from a seed of torch's generator."""

    seed: int = 0


@dataclass(frozen=True)
class StateDict:
    """A ``.pt``, ``.pth``, ``.bin`` or ``.safetensors`` file with tensors by name."""

    path: Path


@dataclass(frozen=True)
class ModelFolder:
    """A folder in the layout of transformers or sentence-transformers."""

    path: Path


@dataclass(frozen=True)
class FinetunerRun:
    """The folder or zip of a Finetuner run."""

    path: Path


ModelWeights = Pretrained | RandomInit | StateDict | ModelFolder
WeightsRef = ModelWeights | FinetunerRun


def parse_weights(text: str) -> WeightsRef:
    """Parse ``pretrained``, ``random``, ``random:SEED`` or a path. The content of the path decides its kind.

    Raises:
        UsageError: The seed is not a number that torch accepts.
        WeightsUnavailableError: The path does not exist.
        WeightsError: The path is a distributed checkpoint.
    """
    if text == "pretrained":
        return Pretrained()
    origin, colon, seed = text.partition(":")
    if origin == "random":
        if colon and not (seed.isdecimal() and int(seed) < 2**63):
            raise UsageError(
                f"the seed in the weights {text!r} is not a number from 0 to 2**63 - 1; write random:0, for example"
            )
        return RandomInit(int(seed or 0))
    if not os.path.lexists(text):
        raise WeightsUnavailableError(
            f"there is no {text}; --weights takes `pretrained`, `random[:SEED]`, or the path of a checkpoint"
        )
    path = Path(text)
    if _is_run(path):
        return FinetunerRun(path)
    if any(path.glob("*.distcp")):
        raise WeightsError(
            f"{text} is a distributed checkpoint, such as FSDP writes; write it as one file with "
            f"`python -m torch.distributed.checkpoint.format_utils dcp_to_torch {text} FILE`"
        )
    return ModelFolder(path) if path.is_dir() else StateDict(path)


def refuse_tokenizer(tokenizer: Path | None) -> None:
    """Check that no tokenizer is given for weights that have their own.

    Raises:
        UsageError: A tokenizer is given.
    """
    if tokenizer is not None:
        raise UsageError("--tokenizer is for weights without a tokenizer, and these weights have one; leave it out")


def _is_run(path: Path) -> bool:
    """Tell a Finetuner run from a model's folder and from a checkpoint, which can be a zip file too."""
    if path.is_dir():
        if (path / "config.json").exists() or (path / "modules.json").exists():
            return False
        patterns = ("*/" * depth + RUN_METADATA for depth in range(_MAX_RUN_DEPTH + 1))
        return any(file.is_file() for pattern in patterns for file in path.glob(pattern))
    if path.suffix == ".zip" or not zipfile.is_zipfile(path):
        return path.suffix == ".zip"
    try:
        with zipfile.ZipFile(path) as archive:
            return any(PurePosixPath(name).name == RUN_METADATA for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False
