"""CLIP models, loaded by the library that builds them, and the CLIPs of Finetuner runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import ClipSource, OpenClipSource
from exporters.catalogue.weights_ref import ModelWeights
from exporters.errors import WeightsMismatchError
from exporters.families.clip.tower import Clip, build_clip_towers
from exporters.families.from_run import CLIP_MODELS
from exporters.families.tower import ExportableTower
from exporters.weights.finetuner_run import RunModel, combine_records
from exporters.weights.state_dict import Checkpoint
from runtime.artifact.manifest import TowerName

if TYPE_CHECKING:
    from torch import Tensor

# Prefixes of the tensors of each tower: in a run, and in the whole CLIP. A run of open_clip holds the whole CLIP twice.
_HUGGING_FACE_PREFIXES: Mapping[TowerName, Mapping[str, str]] = {
    "text": {"_model.": "text_model.", "_projection.": "text_projection."},
    "image": {"_model.": "vision_model.", "_projection.": "visual_projection."},
}
_OPEN_CLIP_PREFIXES: Mapping[TowerName, Mapping[str, str]] = {
    "text": {"_model.text.": "text."},
    "image": {"_model.visual.": "visual."},
}


def load_any_clip(
    source: ClipSource | OpenClipSource,
    weights: ModelWeights | Checkpoint,
    options: ExportOptions,
    *,
    ignored: tuple[str, ...] = (),
) -> Clip:
    """Build a CLIP with its library, and load its weights.

    Args:
        source: The model.
        weights: The weights; a :class:`Checkpoint` is a state dict that is already in memory.
        options: Options of the export; ``tokenizer`` and ``input`` are used.
        ignored: Parts that a state dict may lack.

    Raises:
        WeightsError: The weights are not available, or do not fit.
    """
    arithmetic, tokenizer = options.arithmetic, options.tokenizer_folder
    if isinstance(source, ClipSource):
        from exporters.families.clip.huggingface import load_clip

        return load_clip(source, weights, arithmetic=arithmetic, tokenizer=tokenizer, ignored=ignored)
    from exporters.families.clip.open_clip import load_open_clip

    return load_open_clip(source, weights, arithmetic=arithmetic, tokenizer=tokenizer, ignored=ignored)


def load_clip_run(
    source: ClipSource | OpenClipSource, models: Sequence[RunModel], options: ExportOptions
) -> list[ExportableTower]:
    """Build a CLIP, load the towers that the run fine-tuned, and return these towers.

    Raises:
        WeightsError: The models are not those of a CLIP, or do not fit.
    """
    prefixes = _HUGGING_FACE_PREFIXES if isinstance(source, ClipSource) else _OPEN_CLIP_PREFIXES
    by_tower = {_tower_of(model): model for model in models}
    state_dict: dict[str, Tensor] = {}
    for tower, model in by_tower.items():
        state_dict |= _rename(model, prefixes[tower])
    checkpoint = Checkpoint(
        state_dict=state_dict,
        source=" and ".join(model.checkpoint.source for model in models),
        record=combine_records(models),
    )
    others = prefixes.keys() - by_tower.keys()
    ignored = tuple(prefix.rstrip(".") for tower in others for prefix in prefixes[tower].values())
    clip = load_any_clip(source, checkpoint, options, ignored=ignored)
    return [tower for tower in build_clip_towers(clip, replace(options, tower=None)) if tower.name in by_tower]


def _tower_of(model: RunModel) -> TowerName:
    for tower, name in CLIP_MODELS.items():
        if model.name == name:
            return tower
    raise WeightsMismatchError(
        f"{model.checkpoint.source} has the name {model.name}, expected {' or '.join(CLIP_MODELS.values())}"
    )


def _rename(model: RunModel, prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors of one tower under their names in the whole CLIP. Unknown tensors keep their names."""
    renamed = {}
    for name, value in model.checkpoint.state_dict.items():
        old, new = next(((old, new) for old, new in prefixes.items() if name.startswith(old)), ("", ""))
        if old or not name.startswith("_model."):  # other names that begin so are the other tower of open_clip
            renamed[new + name.removeprefix(old)] = value
    return renamed
