"""The families of models, and the loading of a backbone by its family."""

from __future__ import annotations

from typing import Any

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import BackboneSpec
from exporters.catalogue.weights_ref import FinetunerRun, Pretrained
from exporters.errors import WeightsUnavailableError
from exporters.families import clip, cnn, pointnet, transformer
from exporters.families.family import Family, LoadRequest
from exporters.families.tower import ExportableTower
from runtime.errors import UsageError

FAMILIES: tuple[Family[Any], ...] = (cnn.FAMILY, transformer.FAMILY, clip.FAMILY, pointnet.FAMILY)


def check_options(spec: BackboneSpec, options: ExportOptions) -> None:
    """Check that the backbone's family takes every option that is given.

    Raises:
        UsageError: The family does not take one of them.
    """
    if spec.source is None:
        return
    defaults, taken = ExportOptions(), _find_family(spec).options
    for name in sorted(frozenset[str]().union(*(family.options for family in FAMILIES)) - taken):
        if getattr(options, name) != getattr(defaults, name):
            raise UsageError(f"--{name.replace('_', '-')} is not for {spec.name}; leave it out")


def check_weights(spec: BackboneSpec, options: ExportOptions) -> None:
    """Check that pretrained weights are published, if they are asked for.

    Raises:
        WeightsUnavailableError: The family has no pretrained weights.
    """
    if spec.source is not None and isinstance(options.weights_ref, Pretrained) and _find_family(spec).unpublished:
        raise WeightsUnavailableError(_find_family(spec).unpublished)


def load_towers(spec: BackboneSpec, options: ExportOptions, *, any_architecture: bool = False) -> list[ExportableTower]:
    """Build a backbone, load its weights, and return its towers.

    Args:
        spec: The backbone.
        options: Options of the export.
        any_architecture: Whether a text model's folder may hold another architecture than the backbone's.

    Raises:
        WeightsError: The weights are not available, or do not fit.
        UsageError: The family does not take one of the options.
    """
    check_options(spec, options)
    family = _find_family(spec)
    request = LoadRequest(
        source=spec.source, output_dim=spec.output_dim, options=options, any_architecture=any_architecture
    )
    match options.weights_ref:
        case FinetunerRun(path):
            from exporters.families.from_run import read_models

            return family.load_run(request, read_models(spec, path, options))
        case weights:
            if options.select_model:
                raise UsageError("--select-model is for Finetuner runs; use --tower to export one tower of a CLIP")
            return family.load(request, weights)


def _find_family(spec: BackboneSpec) -> Family[Any]:
    for family in FAMILIES:
        if isinstance(spec.source, family.sources):
            return family
    raise TypeError(f"{spec.name} has no source that a family loads: build its towers, and pass them to export_towers")
