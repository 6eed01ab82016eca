"""CLIP models, loaded by the library that builds them, and the CLIPs of Finetuner runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import ClipSource, OpenClipSource
from exporters.catalogue.weights_ref import ModelWeights
from exporters.errors import WeightsMismatchError
from exporters.families.family import LoadRequest
from exporters.families.from_run import CLIP_MODELS
from exporters.families.tower import ExportableTower
from exporters.weights.finetuner_run import RunModel, combine_records
from exporters.weights.state_dict import Checkpoint
from runtime.artifact.manifest import TowerName

# Prefixes of the tensors of each tower: in a run, and in the whole CLIP. A run of open_clip holds the whole CLIP twice.
_HUGGING_FACE_PREFIXES: Mapping[TowerName, Mapping[str, str]] = {
    "text": {"_model.": "text_model.", "_projection.": "text_projection."},
    "image": {"_model.": "vision_model.", "_projection.": "visual_projection."},
}
_OPEN_CLIP_PREFIXES: Mapping[TowerName, Mapping[str, str]] = {
    "text": {"_model.text.": "text."},
    "image": {"_model.visual.": "visual."},
}


def load(request: LoadRequest[ClipSource | OpenClipSource], weights: ModelWeights) -> list[ExportableTower]:
    """Build a CLIP, load its weights, and return its towers."""
    return _load(request.source, weights, request.options)


def load_run(request: LoadRequest[ClipSource | OpenClipSource], models: Sequence[RunModel]) -> list[ExportableTower]:
    """Build a CLIP, load the towers that the run fine-tuned, and return these towers.

    Raises:
        WeightsError: The models are not those of a CLIP, or do not fit.
        UsageError: An option is for the tower that the run does not hold.
    """
    prefixes = _prefixes(request.source)
    by_tower = {_tower_of(model): model for model in models}
    state_dict: dict[str, Tensor] = {}
    for tower, model in by_tower.items():
        state_dict |= _rename(model, prefixes[tower])
    checkpoint = Checkpoint(
        state_dict=state_dict,
        source=" and ".join(model.checkpoint.source for model in models),
        record=combine_records(models),
    )
    only = next(iter(by_tower)) if len(by_tower) == 1 else None
    return _load(request.source, checkpoint, replace(request.options, tower=only))


def _load(
    source: ClipSource | OpenClipSource, weights: ModelWeights | Checkpoint, options: ExportOptions
) -> list[ExportableTower]:
    """Build a CLIP, and load the weights of the towers that are exported. The weights of the others may be missing."""
    others = [new.values() for tower, new in _prefixes(source).items() if options.tower not in (None, tower)]
    ignored = tuple(prefix.rstrip(".") for prefixes in others for prefix in prefixes)
    if isinstance(source, ClipSource):
        from exporters.families.clip.transformers_catalogue import load_clip

        return load_clip(source, weights, options, ignored=ignored)
    from exporters.families.clip.open_clip_catalogue import load_open_clip

    return load_open_clip(source, weights, options, ignored=ignored)


def _prefixes(source: ClipSource | OpenClipSource) -> Mapping[TowerName, Mapping[str, str]]:
    return _HUGGING_FACE_PREFIXES if isinstance(source, ClipSource) else _OPEN_CLIP_PREFIXES


def _tower_of(model: RunModel) -> TowerName:
    for tower, name in CLIP_MODELS.items():
        if model.name == name:
            return tower
    expected = " or ".join(CLIP_MODELS.values())
    raise WeightsMismatchError(f"{model.checkpoint.source} has the name {model.name}, expected {expected}")


def _rename(model: RunModel, prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors of one tower under their names in the whole CLIP. Unknown tensors keep their names."""
    renamed = {}
    for name, value in model.checkpoint.state_dict.items():
        old, new = next(((old, new) for old, new in prefixes.items() if name.startswith(old)), ("", ""))
        if old or not name.startswith("_model."):  # other names that begin so are the other tower of open_clip
            renamed[new + name.removeprefix(old)] = value
    return renamed
