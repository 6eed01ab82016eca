"""From a Finetuner run artifact to towers: its pooler, projection head and names honoured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import assert_never

from torch import Tensor

from exporters.catalogue.registry import find_descriptor
from exporters.catalogue.spec import (
    BackboneSpec,
    ClipSource,
    ExportOptions,
    HuggingFaceSource,
    OpenClipSource,
    PointNetSource,
    Source,
    TorchvisionSource,
)
from exporters.errors import WeightsMismatchError
from exporters.families.tower import ExportableTower
from exporters.weights.finetuner_run import RunModel, combine_records, read_run
from exporters.weights.state_dict import Checkpoint
from runtime.artifact.manifest import Pooling, TowerName
from runtime.errors import UsageError

# Each half's names in a run, and in the whole CLIP. A run of open_clip holds the whole one twice.
_HF_HALVES: Mapping[TowerName, Mapping[str, str]] = {
    "text": {"_model.": "text_model.", "_projection.": "text_projection."},
    "image": {"_model.": "vision_model.", "_projection.": "visual_projection."},
}
_OPEN_CLIP_HALVES: Mapping[TowerName, Mapping[str, str]] = {
    "text": {"_model.text.": "text."},
    "image": {"_model.visual.": "visual."},
}
_CLIP_MODELS: dict[str, TowerName] = {"clip-text": "text", "clip-vision": "image"}


def load_run_towers(spec: BackboneSpec, source: Source, options: ExportOptions) -> list[ExportableTower]:
    """Reads the run artifact that ``options.weights`` names, and returns the towers of its models.

    Raises:
        WeightsError: It is damaged, is of another backbone, or holds two models and none is selected.
        UsageError: An option is not for this family.
    """
    if options.select_model and options.tower:
        raise UsageError("a run's model is chosen by --select-model or by --tower, not by both")
    selected = options.select_model or {tower: name for name, tower in _CLIP_MODELS.items()}.get(
        options.tower or "mesh"
    )
    models = read_run(Path(options.weights), selected)
    for model in models:
        _check_descriptor(spec, source, model)
    if isinstance(source, ClipSource | OpenClipSource):
        return _clip_towers(source, models, options)
    model, *others = models
    if others:
        raise WeightsMismatchError(f"{options.weights} holds {len(models)} models, where {spec.name} takes one")
    if isinstance(source, TorchvisionSource):
        return [_cnn_tower(spec, source, model, options)]
    if isinstance(source, HuggingFaceSource):
        return [_text_tower(source, model, options)]
    if isinstance(source, PointNetSource):
        from exporters.families.pointnet.load import load_pointnet
        from exporters.families.pointnet.tower import PointNetTower

        return [PointNetTower(load_pointnet(source, model.checkpoint), options)]
    assert_never(source)


def _check_descriptor(spec: BackboneSpec, source: Source, model: RunModel) -> None:
    """Refuses a run of another backbone of the catalogue; of one that is not in it, the state dict tells."""
    stated = find_descriptor(model.descriptor)
    if stated is not None and stated.source != source:
        raise WeightsMismatchError(
            f"{model.checkpoint.source} was fine-tuned from {model.descriptor}, not from {source.descriptor}; export "
            f"it as {stated.name}, not {spec.name}"
        )


def _cnn_tower(
    spec: BackboneSpec, source: TorchvisionSource, model: RunModel, options: ExportOptions
) -> ExportableTower:
    from exporters.families.cnn.torchvision import load_cnn, squashing_transforms
    from exporters.families.cnn.tower import CnnTower

    checkpoint, projections = model.split("embed_model.")
    cnn = replace(
        load_cnn(source, checkpoint),
        transforms=squashing_transforms(options.image_size or model.image_size),
        pooling=model.pooling,
        projections=projections,
    )
    tower = CnnTower(cnn, options, output_dim=spec.output_dim)
    if model.output_dim not in (None, tower.output_dim):
        raise WeightsMismatchError(
            f"{model.checkpoint.source} states {model.output_dim} dimensions and has layers for {tower.output_dim}; "
            "download the run's artifact again"
        )
    return tower


def _text_tower(source: HuggingFaceSource, model: RunModel, options: ExportOptions) -> ExportableTower:
    from exporters.families.transformer.huggingface import load_transformer
    from exporters.families.transformer.sentence_layers import SentenceLayers
    from exporters.families.transformer.tower import TransformerTower

    checkpoint, projections = model.split("_model.")
    layers = SentenceLayers(pooling=model.pooling or Pooling(method="mean"), projections=projections)
    transformer = load_transformer(source, checkpoint, tokenizer=options.tokenizer_folder, layers=layers)
    return TransformerTower(transformer, options)


def _clip_towers(
    source: ClipSource | OpenClipSource, models: Sequence[RunModel], options: ExportOptions
) -> list[ExportableTower]:
    from exporters.families.clip.load import load_any_clip
    from exporters.families.clip.tower import clip_towers

    halves = {_tower_of(model): model for model in models}
    parts = _HF_HALVES if isinstance(source, ClipSource) else _OPEN_CLIP_HALVES
    state_dict: dict[str, Tensor] = {}
    for tower, model in halves.items():
        state_dict |= _rename(model, parts[tower])
    checkpoint = Checkpoint(
        state_dict=state_dict,
        source=" and ".join(model.checkpoint.source for model in models),
        record=combine_records(models),
    )
    unused = tuple(part.rstrip(".") for tower in parts.keys() - halves.keys() for part in parts[tower].values())
    clip = load_any_clip(source, checkpoint, options, unused=unused)
    return [tower for tower in clip_towers(clip, replace(options, tower=None)) if tower.name in halves]


def _tower_of(model: RunModel) -> TowerName:
    if model.name not in _CLIP_MODELS:
        raise WeightsMismatchError(
            f"{model.checkpoint.source} is called {model.name}, where {' or '.join(_CLIP_MODELS)} is expected"
        )
    return _CLIP_MODELS[model.name]


def _rename(model: RunModel, parts: Mapping[str, str]) -> dict[str, Tensor]:
    """Returns the tensors of one half by the names that the whole CLIP has for them, and strange ones as they are."""
    renamed = {}
    for name, value in model.checkpoint.state_dict.items():
        old, new = next(((old, new) for old, new in parts.items() if name.startswith(old)), ("", ""))
        if old or not name.startswith("_model."):  # what else a run of open_clip has there is the other half
            renamed[new + name.removeprefix(old)] = value
    return renamed
