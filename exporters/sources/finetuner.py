"""Finetuner's run artifacts: a folder or a zip with YAML metadata and plain state dicts.

No file of a zip is extracted under a name of its own, none is read beyond a fixed size, and no pickled code is run.

Source of the layout: the packages finetuner-stubs and finetuner-commons 0.13.10, https://pypi.org/project/finetuner-commons
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

import yaml
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from exporters.errors import WeightsError, WeightsMismatchError
from exporters.modules.projection import ProjectionLayer
from exporters.sources.checkpoint import Checkpoint, printable, read_state_dict
from exporters.spec import GEM_EPS, GEM_P
from runtime.artifact import record_file
from runtime.manifest import Pooling, PoolingMethod, Projection, Weights

BOTH = "both"
_METADATA, _MODEL, _GRAPH = "metadata.yml", "model.pt", "model.onnx"
_METADATA_BYTES = 2**20
_MODEL_BYTES = 2**33  # the largest of the sixteen takes 1.7 GB
_ENTRIES = 10_000
_CHUNK_BYTES = 2**20
_POOLINGS: Mapping[str, PoolingMethod] = {"mean": "mean", "max": "max", "cls": "cls", "gem": "gem"}


@dataclass(frozen=True, kw_only=True)
class RunModel:
    """One model of a run.

    Attributes:
        name: Its name in the run, such as ``clip-text``.
        descriptor: What it was fine-tuned from, such as ``bert-base-cased``; empty if the metadata does not say.
        pooling: The pooling that the run asked for; ``None`` for the backbone's own.
        checkpoint: Its tensors by the names that the run gave them.
    """

    name: str
    descriptor: str
    pooling: Pooling | None
    checkpoint: Checkpoint

    def split(self, backbone: str) -> tuple[Checkpoint, tuple[ProjectionLayer, ...]]:
        """Takes the state dict apart.

        Args:
            backbone: What the backbone's names begin with, if anything follows the backbone.

        Returns:
            The backbone's tensors by its own names, and the projection head behind it.

        Raises:
            WeightsMismatchError: What follows is no projection head.
        """
        state_dict = self.checkpoint.state_dict
        inside = {key.removeprefix(backbone): value for key, value in state_dict.items() if key.startswith(backbone)}
        if not inside:
            return self.checkpoint, ()
        head = {key: value for key, value in state_dict.items() if not key.startswith(backbone)}
        return replace(self.checkpoint, state_dict=inside), _read_head(head, self.checkpoint.source)


def is_run(path: Path) -> bool:
    """Tells a run artifact from a model's folder and from a checkpoint, which can be a zip too."""
    if path.is_dir():
        return (path / "config.yml").is_file() or (path / "models").is_dir() or bool(list(path.glob("*/config.yml")))
    if not zipfile.is_zipfile(path):
        return path.suffix == ".zip"
    try:
        with zipfile.ZipFile(path) as archive:
            names = {PurePosixPath(name).name for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        return path.suffix == ".zip"
    return _METADATA in names or "config.yml" in names


def read_run(path: Path, select_model: str | None) -> list[RunModel]:
    """Reads a run artifact.

    Args:
        path: Its folder or zip.
        select_model: The name of the model to take, where there are two; ``both`` for both.

    Raises:
        WeightsError: It is damaged, holds no model, or holds two and none is selected.
    """
    with _open(path) as files:
        folders = _find_models(files, path)
        metadata = {str(document["name"]): (folder, document) for folder, document in folders}
        names = _select(list(metadata), len(folders), select_model, path)
        return [_read_model(files, *metadata[name], path) for name in names]


class _Files(Protocol):
    """The files of a run, in a folder or in a zip."""

    def names(self) -> Sequence[PurePosixPath]: ...

    def size(self, name: PurePosixPath) -> int: ...

    def open(self, name: PurePosixPath) -> BinaryIO: ...


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> Sequence[PurePosixPath]:
        files = sorted(path for path in self._folder.rglob("*") if path.is_file())
        return [PurePosixPath(path.relative_to(self._folder).as_posix()) for path in files]

    def size(self, name: PurePosixPath) -> int:
        return (self._folder / name).stat().st_size

    def open(self, name: PurePosixPath) -> BinaryIO:
        return (self._folder / name).open("rb")


class _Zip:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def names(self) -> Sequence[PurePosixPath]:
        return [PurePosixPath(name) for name in self._archive.namelist() if not name.endswith("/")]

    def size(self, name: PurePosixPath) -> int:
        return self._archive.getinfo(str(name)).file_size

    def open(self, name: PurePosixPath) -> BinaryIO:
        return self._archive.open(str(name))  # type: ignore[return-value]  # as good as one


@contextmanager
def _open(path: Path) -> Iterator[_Files]:
    """Yields the files of a run; what zipfile and the file system trip over within the block becomes one of ours."""
    try:
        if path.is_dir():
            yield _Folder(path)
            return
        with zipfile.ZipFile(path) as archive:
            _check_names(archive.namelist(), path)
            yield _Zip(archive)
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, zipfile.LargeZipFile) as exc:
        raise WeightsError(f"{path} is damaged or cannot be read ({exc}); download the run's artifact again") from exc


def _check_names(names: Sequence[str], path: Path) -> None:
    if len(names) > _ENTRIES:
        raise WeightsError(f"{path} holds {len(names)} files, far more than a run's artifact; it is not read")
    for name in names:
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or ":" in name:
            raise WeightsError(f"{path} holds the file {name!r}, whose path leaves the archive; it is not read")


def _find_models(files: _Files, path: Path) -> list[tuple[PurePosixPath, Mapping[str, Any]]]:
    """Returns the folders that hold a model, each with its metadata."""
    names = set(files.names())
    graphs = [name for name in names if name.name == _GRAPH]
    folders = sorted(name.parent for name in names if name.name == _MODEL and name.parent / _METADATA in names)
    if not folders and graphs:
        raise WeightsError(
            f"{path} holds {graphs[0]} and no {_MODEL}: this run was saved as an ONNX graph, whose weights cannot be "
            "told apart any more; give the artifact of a run with to_onnx=False"
        )
    if not folders:
        raise WeightsError(f"{path} holds no model: no folder in it has both {_METADATA} and {_MODEL}")
    return [(folder, _read_metadata(files, folder / _METADATA, path)) for folder in folders]


def _read_metadata(files: _Files, name: PurePosixPath, path: Path) -> Mapping[str, Any]:
    with files.open(name) as file:
        text = file.read(_METADATA_BYTES + 1)
    if len(text) > _METADATA_BYTES:
        raise WeightsError(f"{path}: {name} is larger than {_METADATA_BYTES} bytes; it is not read")
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise WeightsError(f"{path}: {name} is no YAML ({exc}); download the run's artifact again") from exc
    if not isinstance(document, dict) or not isinstance(document.get("name"), str):
        raise WeightsError(f"{path}: {name} states no name of its model; download the run's artifact again")
    return document


def _select(names: list[str], folders: int, select_model: str | None, path: Path) -> list[str]:
    listed = " and ".join(names)
    if len(names) != folders:
        raise WeightsError(f"{path} holds {folders} models, of which some have the same name: {listed}")
    if select_model == BOTH:
        return names
    if select_model is not None:
        if select_model not in names:
            raise WeightsError(f"{path} holds no model {select_model}, but {listed}; name one by --select-model")
        return [select_model]
    if len(names) > 1:
        raise WeightsError(f"{path} holds the models {listed}; name one by --select-model, or take {BOTH}")
    return names


def _read_model(files: _Files, folder: PurePosixPath, metadata: Mapping[str, Any], path: Path) -> RunModel:
    source = f"{path}: {folder / _MODEL}"
    if files.size(folder / _MODEL) > _MODEL_BYTES:
        raise WeightsError(f"{source} is larger than {_MODEL_BYTES} bytes; it is not read")
    with tempfile.TemporaryDirectory() as place, files.open(folder / _MODEL) as packed:
        copy = Path(place) / _MODEL
        _copy(packed, copy, source)
        state_dict = read_state_dict(copy)
        record = record_file(copy)
    name = str(metadata["name"])
    return RunModel(
        name=name,
        descriptor=str(metadata.get("descriptor") or name),
        pooling=_read_pooling(metadata, state_dict, source),
        checkpoint=Checkpoint(
            state_dict={key: value for key, value in state_dict.items() if key != _GEM_P_KEY},
            source=source,
            record=Weights(
                origin="file",
                description=f"Finetuner run {printable(path.stem)}",
                revision=name,
                file=_MODEL,
                sha256=record.sha256,
            ),
        ),
    )


_GEM_P_KEY = "avgpool.p"  # where a CNN's pooling learned its exponent


def _copy(packed: BinaryIO, place: Path, source: str) -> None:
    """Copies a stream, and stops where it grows beyond what any model takes, whatever its header promised."""
    copied = 0
    with place.open("wb") as file:
        while chunk := packed.read(_CHUNK_BYTES):
            copied += len(chunk)
            if copied > _MODEL_BYTES:
                raise WeightsError(f"{source} is larger than {_MODEL_BYTES} bytes; it is not read")
            file.write(chunk)


def _read_pooling(metadata: Mapping[str, Any], state_dict: Mapping[str, Tensor], source: str) -> Pooling | None:
    options = metadata.get("options") or {}
    pooler = options.get("pooler") if isinstance(options, dict) else None
    if pooler is None:
        return None
    method = _POOLINGS.get(str(pooler).lower())
    if method is None:
        raise WeightsError(f"{source} was pooled by {pooler!r}; this exporter knows {', '.join(_POOLINGS)}")
    if method != "gem":
        return Pooling(method=method)
    parameters = options.get("pooler_options") or {}
    learned = state_dict.get(_GEM_P_KEY)
    p = float(parameters.get("p", GEM_P)) if learned is None else float(learned.reshape(-1)[0])
    return Pooling(method="gem", p=p, eps=float(parameters.get("eps", GEM_EPS)))


def _read_head(head: Mapping[str, Tensor], source: str) -> tuple[ProjectionLayer, ...]:
    """Returns a projection head: linear layers, each with the batch norm behind it folded in, ReLU between them.

    Finetuner's own is linear, batch norm, ReLU, linear, batch norm. A single linear layer is taken as well.

    Raises:
        WeightsMismatchError: It is something else.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in head.items():
        module, _, parameter = key.rpartition(".")
        parts.setdefault(module, {})[parameter] = value
    linears: list[nn.Linear] = []
    try:
        for module in sorted(parts, key=_natural):
            if parts[module]["weight"].ndim == 2:
                linears.append(_linear(parts[module]))
            else:
                linears[-1] = fuse_linear_bn_eval(linears[-1], _batch_norm(parts[module]))
    except (KeyError, IndexError, RuntimeError) as exc:
        raise WeightsMismatchError(
            f"{source} has {', '.join(list(head)[:5])} behind its backbone, which is no projection head of linear "
            "layers and batch norms"
        ) from exc
    return tuple(
        (
            Projection(
                in_features=linear.in_features,
                out_features=linear.out_features,
                bias=linear.bias is not None,
                activation="identity" if linear is linears[-1] else "relu",
            ),
            linear,
        )
        for linear in linears
    )


def _linear(parameters: Mapping[str, Tensor]) -> nn.Linear:
    out_features, in_features = parameters["weight"].shape
    layer = nn.Linear(in_features, out_features, bias="bias" in parameters)
    layer.load_state_dict(dict(parameters))
    return layer.eval()


def _batch_norm(parameters: Mapping[str, Tensor]) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(len(parameters["weight"]))
    layer.load_state_dict(dict(parameters))
    return layer.eval()


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts ``layers.10`` behind ``layers.9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def combine_records(models: Sequence[RunModel]) -> Weights:
    """Returns the record of models that go into one artifact; its hash is that of their hashes."""
    records = [model.checkpoint.record for model in models]
    if len(records) == 1:
        return records[0]
    return replace(
        records[0],
        revision=" and ".join(model.name for model in models),
        sha256=hashlib.sha256("".join(record.sha256 for record in records).encode()).hexdigest(),
    )
