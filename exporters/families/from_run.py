"""The models of a Finetuner run, checked against the backbone that it is exported as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.registry import find_descriptor
from exporters.catalogue.spec import BackboneSpec
from exporters.errors import WeightsMismatchError
from exporters.weights.finetuner_run import RunModel, read_run
from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError

CLIP_MODELS: Mapping[TowerName, str] = {"text": "clip-text", "image": "clip-vision"}


def read_models(spec: BackboneSpec, path: Path, options: ExportOptions) -> list[RunModel]:
    """Read the models of a run that ``options`` select.

    Raises:
        WeightsError: The run is damaged, is of another backbone, or holds two models and none is selected.
        UsageError: Both ``select_model`` and ``tower`` are given.
    """
    if options.select_model and options.tower:
        raise UsageError("--select-model and --tower both select a model of the run; give only one of them")
    selected = CLIP_MODELS.get(options.tower) if options.tower else options.select_model
    models = read_run(path, selected)
    for model in models:
        _check_descriptor(spec, model)
    return models


def only_model(models: Sequence[RunModel]) -> RunModel:
    """Return the model of a run that has one.

    Raises:
        WeightsMismatchError: The run has several models.
    """
    model, *others = models
    if others:
        raise WeightsMismatchError(f"{model.checkpoint.source}: the run has {len(models)} models, expected one")
    return model


def _check_descriptor(spec: BackboneSpec, model: RunModel) -> None:
    """Check that the run is not of another backbone of the catalogue. The state dict tells the others apart."""
    stated = find_descriptor(model.descriptor)
    if stated is not None and spec.source is not None and stated.source != spec.source:
        raise WeightsMismatchError(
            f"{model.checkpoint.source} was fine-tuned from {model.descriptor}, not from {spec.source.descriptor}; "
            f"export it as {stated.name}, not {spec.name}"
        )
