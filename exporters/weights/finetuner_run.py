"""Finetuner's run artifacts: a folder or a zip with YAML metadata and plain state dicts.

No file of a zip is extracted under a name of its own, none is read beyond a fixed size, and no pickled code is run.

Source of the layout: the packages finetuner-stubs and finetuner-commons 0.13.10, of https://github.com/jina-ai/finetuner
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from torch import Tensor

from exporters.catalogue.spec import GEM_EPS, GEM_P
from exporters.errors import WeightsError
from exporters.modules.projection import ProjectionLayer
from exporters.weights.archive import copy_limited, open_archive, walk
from exporters.weights.model_folder import reading
from exporters.weights.projection_head import read_head
from exporters.weights.state_dict import Checkpoint, printable, read_state_dict
from runtime.artifact.manifest import Pooling, PoolingMethod, Weights
from runtime.artifact.reader import record_file

BOTH = "both"
_METADATA, _MODEL, _GRAPH = "metadata.yml", "model.pt", "model.onnx"
_METADATA_BYTES = 2**20
_MODEL_BYTES = 2**33  # the largest of the sixteen takes 1.7 GB
_GEM_P = "avgpool.p"  # where a CNN's pooling learned its exponent
_IMAGE_SIZE = 224  # to which Finetuner squashed the images of all its CNNs, EfficientNet-B7's too
_POOLINGS: Mapping[str, PoolingMethod] = {"mean": "mean", "max": "max", "cls": "cls", "GeM": "gem"}


@dataclass(frozen=True, kw_only=True)
class RunModel:
    """One model of a run.

    Attributes:
        name: Its name in the run, such as ``clip-text``.
        descriptor: What it was fine-tuned from, such as ``bert-base-cased``; else its name.
        pooling: The pooling that the run asked for; ``None`` for the backbone's own.
        output_dim: Length of its embeddings, if the run asked for another than the backbone's own.
        image_size: Side of the square to which images were squashed, in pixels.
        checkpoint: Its tensors by the names that the run gave them.
    """

    name: str
    descriptor: str
    pooling: Pooling | None
    output_dim: int | None
    image_size: int
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
        return replace(self.checkpoint, state_dict=inside), read_head(head, self.checkpoint.source)


def is_run(path: Path) -> bool:
    """Tells a run artifact from a model's folder and from a checkpoint, which can be a zip too."""
    if path.is_dir():
        of_a_library = (path / "config.json").exists() or (path / "modules.json").exists()
        return not of_a_library and any((folder / _METADATA).is_file() for folder in walk(path, depth=4))
    if path.suffix == ".zip" or not zipfile.is_zipfile(path):
        return path.suffix == ".zip"
    try:
        with zipfile.ZipFile(path) as archive:
            names = {PurePosixPath(name).name for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        return False
    return _METADATA in names


def read_run(path: Path, select_model: str | None) -> list[RunModel]:
    """Reads a run artifact.

    Args:
        path: Its folder or zip.
        select_model: The name of the model to take, where there are two; ``both`` for both.

    Raises:
        WeightsError: It is damaged, holds no model, or holds two and none is selected.
    """
    with open_archive(path) as root:
        models = [(folder, _read_metadata(folder / _METADATA)) for folder in _find_models(root, path)]
        metadata = {str(document["name"]): (folder, document) for folder, document in models}
        names = _select(list(metadata), len(models), select_model, path)
        return [_read_model(*metadata[name], path) for name in names]


def _find_models(root: Traversable, path: Path) -> list[Traversable]:
    """Returns the folders that hold a model and its metadata."""
    folders = list(walk(root))
    models = [folder for folder in folders if (folder / _MODEL).is_file() and (folder / _METADATA).is_file()]
    graphs = [folder / _GRAPH for folder in folders if (folder / _GRAPH).is_file()]
    if not models and graphs:
        raise WeightsError(
            f"{graphs[0]} is there and no {_MODEL}: this run was saved as an ONNX graph, whose weights cannot be told "
            "apart any more; give the artifact of a run with to_onnx=False"
        )
    if not models:
        raise WeightsError(f"{path} holds no model: no folder in it has both {_METADATA} and {_MODEL}")
    return models


def _read_metadata(path: Traversable) -> Mapping[str, Any]:
    with path.open("rb") as file:
        text = file.read(_METADATA_BYTES + 1)
    if len(text) > _METADATA_BYTES:
        raise WeightsError(f"{path} is larger than {_METADATA_BYTES} bytes; it is not read")
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise WeightsError(f"{path} is no YAML ({exc}); download the run's artifact again") from exc
    if not isinstance(document, dict) or not isinstance(document.get("name"), str):
        raise WeightsError(f"{path} states no name of its model; download the run's artifact again")
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


def _read_model(folder: Traversable, metadata: Mapping[str, Any], path: Path) -> RunModel:
    source = str(folder / _MODEL)
    with tempfile.TemporaryDirectory() as place, (folder / _MODEL).open("rb") as packed:
        copy = Path(place) / _MODEL
        copy_limited(packed, copy, _MODEL_BYTES, source)
        state_dict = read_state_dict(copy, source)
        record = record_file(copy)
    name = str(metadata["name"])
    return RunModel(
        name=name,
        descriptor=str(metadata.get("descriptor") or name),
        pooling=_read_pooling(metadata, state_dict, source),
        output_dim=metadata.get("output_dim"),
        image_size=_read_image_size(metadata, source),
        checkpoint=Checkpoint(
            state_dict={key: value for key, value in state_dict.items() if key != _GEM_P},
            source=source,
            record=Weights(
                origin="file",
                description=f"Finetuner run {printable(path.name.removesuffix('.zip'))}, model {name}",
                file=_MODEL,
                sha256=record.sha256,
            ),
        ),
    )


def _read_pooling(metadata: Mapping[str, Any], state_dict: Mapping[str, Tensor], source: str) -> Pooling | None:
    with reading(f"the metadata of {source}"):
        options = dict(metadata.get("options") or {})
        pooler, parameters = options.get("pooler"), dict(options.get("pooler_options") or {})
        if pooler is None:
            return None
        if pooler not in _POOLINGS:
            raise WeightsError(f"{source} was pooled by {pooler!r}; this exporter knows {', '.join(_POOLINGS)}")
        if pooler != "GeM":
            return Pooling(method=_POOLINGS[pooler])
        learned = state_dict.get(_GEM_P)
        p = float(parameters.get("p", GEM_P)) if learned is None else float(learned.reshape(-1)[0])
        return Pooling(method="gem", p=p, eps=float(parameters.get("eps", GEM_EPS)))


def _read_image_size(metadata: Mapping[str, Any], source: str) -> int:
    with reading(f"the metadata of {source}"):
        image = dict(dict(metadata.get("preprocess_options") or {}).get("image") or {})
        height, width = (int(image.get(side, _IMAGE_SIZE)) for side in ("height", "width"))
    if height != width:
        raise WeightsError(f"{source} was trained on images of {height} x {width}; this exporter knows squares alone")
    return height


def combine_records(models: Sequence[RunModel]) -> Weights:
    """Returns the record of models that go into one artifact; its hash is that of their hashes."""
    records = [model.checkpoint.record for model in models]
    if len(records) == 1:
        return records[0]
    return replace(
        records[0],
        description=" and ".join([records[0].description, *(model.name for model in models[1:])]),
        sha256=hashlib.sha256("".join(record.sha256 for record in records).encode()).hexdigest(),
    )
