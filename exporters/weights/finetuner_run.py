"""Artifacts of Finetuner runs: a folder or zip with YAML metadata and plain state dicts.

The reader extracts no file under the name that a zip gives it, reads no file beyond a fixed size, and runs no
pickled code.

Source of the layout: the packages finetuner-stubs and finetuner-commons 0.13.10, of https://github.com/jina-ai/finetuner
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from exporters.catalogue.options import GEM_EPS, GEM_P
from exporters.catalogue.weights_ref import RUN_METADATA
from exporters.errors import WeightsError
from exporters.modules.projection import ProjectionLayer
from exporters.weights.archive import copy_limited, open_archive, walk
from exporters.weights.parsing import parsing
from exporters.weights.projection_head import read_head
from exporters.weights.state_dict import Checkpoint, escape_name, read_state_dict
from runtime.artifact.manifest import Pooling, PoolingMethod, Weights
from runtime.artifact.reader import record_file

BOTH = "both"
_MODEL, _GRAPH = "model.pt", "model.onnx"
_MAX_METADATA_BYTES = 2**20
MAX_MODEL_BYTES = 2**33  # the catalogue's largest backbone takes 1.7 GB.
_GEM_P = "avgpool.p"  # learned exponent of a CNN's pooling.
_IMAGE_SIZE = 224  # Finetuner resized the images of all its CNNs to this square, also for EfficientNet-B7
_POOLINGS: Mapping[str, PoolingMethod] = {"mean": "mean", "max": "max", "cls": "cls", "GeM": "gem"}


@dataclass(frozen=True, kw_only=True)
class RunModel:
    """One model of a run. ``None`` is for the backbone's default."""

    name: str  # in the run, such as `clip-text`
    descriptor: str  # the backbone that was fine-tuned, such as `bert-base-cased`; `name` if the run does not say
    pooling: Pooling | None
    output_dim: int | None
    image_size: int  # side in pixels of the square to which images were resized
    checkpoint: Checkpoint  # tensors by their names in the run

    def split(self, backbone: str) -> tuple[Checkpoint, tuple[ProjectionLayer, ...]]:
        """Split the state dict into backbone and projection head. Runs without a head may lack the prefix ``backbone``.

        Raises:
            WeightsMismatchError: The other tensors are no projection head.
        """
        state_dict = self.checkpoint.state_dict
        inside = {key.removeprefix(backbone): value for key, value in state_dict.items() if key.startswith(backbone)}
        if not inside:
            return self.checkpoint, ()
        head = {key: value for key, value in state_dict.items() if not key.startswith(backbone)}
        return replace(self.checkpoint, state_dict=inside), read_head(head, self.checkpoint.source)


def read_run(path: Path, select_model: str | None) -> list[RunModel]:
    """Read the models of a run.

    Args:
        path: Folder or zip of the run.
        select_model: Name of the model to read, if there are two; ``both`` for both.

    Raises:
        WeightsError: The run is damaged, holds no model, or holds two models and none is selected.
    """
    with open_archive(path) as root:
        models = [(folder, _read_metadata(folder / RUN_METADATA)) for folder in _find_models(root, path)]
        metadata = {str(document["name"]): (folder, document) for folder, document in models}
        names = _select(list(metadata), len(models), select_model, path)
        return [_read_model(*metadata[name], path) for name in names]


def _find_models(root: Traversable, path: Path) -> list[Traversable]:
    """Return the folders that hold a model and its metadata."""
    folders = list(walk(root))
    models = [folder for folder in folders if (folder / _MODEL).is_file() and (folder / RUN_METADATA).is_file()]
    graphs = [folder / _GRAPH for folder in folders if (folder / _GRAPH).is_file()]
    if not models and graphs:
        raise WeightsError(
            f"{graphs[0]} exists without {_MODEL}: this run was saved as an ONNX graph, which does not keep the names "
            "of the weights; give the artifact of a run with to_onnx=False"
        )
    if not models:
        raise WeightsError(f"{path} holds no model: no folder in it has both {RUN_METADATA} and {_MODEL}")
    return models


def _read_metadata(path: Traversable) -> Mapping[str, Any]:
    with path.open("rb") as file:
        text = file.read(_MAX_METADATA_BYTES + 1)
    if len(text) > _MAX_METADATA_BYTES:
        raise WeightsError(f"{path} is larger than {_MAX_METADATA_BYTES} bytes; it is not read")
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise WeightsError(f"{path} is not YAML ({exc}); download the run's artifact again") from exc
    if not isinstance(document, dict) or not isinstance(document.get("name"), str):
        raise WeightsError(f"{path} does not name its model; download the run's artifact again")
    return document


def _select(names: list[str], folders: int, select_model: str | None, path: Path) -> list[str]:
    listed = " and ".join(names)
    if len(names) != folders:
        raise WeightsError(f"{path} holds {folders} models, and some have the same name: {listed}")
    if select_model in names:
        return [select_model]
    if select_model not in (None, BOTH):
        raise WeightsError(f"{path} holds {listed}, not {select_model}; choose one by --select-model")
    if len(names) > 1 and select_model != BOTH:
        raise WeightsError(f"{path} holds the models {listed}; choose one by --select-model, or {BOTH}")
    return names


def _read_model(folder: Traversable, metadata: Mapping[str, Any], path: Path) -> RunModel:
    source = str(folder / _MODEL)
    with tempfile.TemporaryDirectory() as scratch, (folder / _MODEL).open("rb") as packed:
        copy = Path(scratch) / _MODEL
        copy_limited(packed, copy, MAX_MODEL_BYTES, source)
        state_dict = read_state_dict(copy, source)
        record = record_file(copy)
    name = str(metadata["name"])
    description = f"Finetuner run {escape_name(path.name.removesuffix('.zip'))}, model {name}"
    return RunModel(
        name=name,
        descriptor=str(metadata.get("descriptor") or name),
        pooling=_read_pooling(metadata, state_dict, source),
        output_dim=metadata.get("output_dim"),
        image_size=_read_image_size(metadata, source),
        checkpoint=Checkpoint(
            state_dict={key: value for key, value in state_dict.items() if key != _GEM_P},
            source=source,
            record=Weights(origin="file", description=description, file=_MODEL, sha256=record.sha256),
        ),
    )


def _read_pooling(metadata: Mapping[str, Any], state_dict: Mapping[str, Tensor], source: str) -> Pooling | None:
    with parsing(f"the metadata of {source}"):
        options = dict(metadata.get("options") or {})
        pooler, parameters = options.get("pooler"), dict(options.get("pooler_options") or {})
        if pooler is None:
            return None
        if pooler not in _POOLINGS:
            raise WeightsError(f"{source} has the pooler {pooler!r}, expected one of {', '.join(_POOLINGS)}")
        if pooler != "GeM":
            return Pooling(method=_POOLINGS[pooler])
        learned = state_dict.get(_GEM_P)
        p = float(parameters.get("p", GEM_P)) if learned is None else float(learned.reshape(-1)[0])
        return Pooling(method="gem", p=p, eps=float(parameters.get("eps", GEM_EPS)))


def _read_image_size(metadata: Mapping[str, Any], source: str) -> int:
    with parsing(f"the metadata of {source}"):
        image = dict(dict(metadata.get("preprocess_options") or {}).get("image") or {})
        height, width = (int(image.get(side, _IMAGE_SIZE)) for side in ("height", "width"))
    if height != width:
        raise WeightsError(f"{source} was trained on images of {height} x {width} pixels, expected a square")
    return height


def combine_records(models: Sequence[RunModel]) -> Weights:
    """Return the record of models that go into one artifact. Its hash is the hash of their hashes."""
    records = [model.checkpoint.record for model in models]
    if len(records) == 1:
        return records[0]
    return replace(
        records[0],
        description=" and ".join([records[0].description, *(model.name for model in models[1:])]),
        sha256=hashlib.sha256("".join(record.sha256 for record in records).encode()).hexdigest(),
    )
