"""The families of models, and the loading of a backbone by its family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from exporters.catalogue.options import IMAGE_OPTIONS, ExportOptions, given_flags
from exporters.catalogue.spec import (
    BackboneSpec,
    ClipSource,
    CnnSource,
    FolderSource,
    HubModelSource,
    HuggingFaceSource,
    NamedSource,
    OpenClipModelSource,
    OpenClipSource,
    PointNetSource,
    TimmSource,
    TorchvisionModelSource,
)
from exporters.catalogue.weights_ref import FinetunerRun, ModelFolder, StateDict
from exporters.errors import WeightsError
from exporters.families.family import Family, FolderRequest, LoadRequest
from exporters.weights.folder_kind import FolderKind, recognize_folder
from runtime.errors import UsageError

if TYPE_CHECKING:
    from exporters.families.tower import ExportableTower

_IMAGE = frozenset({"input", *IMAGE_OPTIONS})

FAMILIES = (
    Family(
        module="exporters.families.cnn.torchvision",
        sources=(CnnSource,),
        options=_IMAGE | {"pooling", "image_size"},
    ),
    Family(
        module="exporters.families.vision.timm_models",
        sources=(TimmSource,),
        options=_IMAGE | {"image_size"},
    ),
    Family(
        module="exporters.families.vision.torchvision_models",
        sources=(TorchvisionModelSource,),
        options=_IMAGE | {"image_size"},
    ),
    Family(
        module="exporters.families.clip.open_clip_any",
        sources=(OpenClipModelSource,),
        options=_IMAGE | {"image_size", "tower"},
    ),
    Family(
        module="exporters.families.sentence.catalogue",
        sources=(HuggingFaceSource,),
        options=frozenset({"pooling", "tokenizer", "max_length", "trust_remote_code"}),
    ),
    Family(
        module="exporters.families.clip.load",
        sources=(ClipSource, OpenClipSource),
        options=_IMAGE | {"tokenizer", "tower"},
    ),
    Family(
        module="exporters.families.pointnet.load",
        sources=(PointNetSource,),
    ),
)


# The families of model folders, by the kind that `recognize_folder` finds. Each module has `load_folder(request)`.
FOLDER_FAMILIES: Mapping[FolderKind, Family] = {
    "text": Family(
        module="exporters.families.sentence.load",
        options=frozenset({"pooling", "max_length", "trust_remote_code", "revision"}),
    ),
    "image": Family(
        module="exporters.families.vision.transformers_folder", options=_IMAGE | {"image_size", "revision"}
    ),
    "text-image": Family(module="exporters.families.clip.transformers_folder", options=_IMAGE | {"tower", "revision"}),
    "sentence-clip": Family(module="exporters.families.clip.sentence_folder", options=_IMAGE | {"tower", "revision"}),
    "timm": Family(module="exporters.families.vision.timm_models", options=_IMAGE | {"image_size", "revision"}),
    "open_clip": Family(
        module="exporters.families.clip.open_clip_any", options=_IMAGE | {"image_size", "tower", "revision"}
    ),
}
# Kinds whose training writes a state dict, and whose towers share the tensors of their model.
_TRAINED_IN_PLACE: frozenset[FolderKind] = frozenset({"image", "text-image", "sentence-clip", "timm"})


def check_options(spec: BackboneSpec, options: ExportOptions) -> None:
    """Check that the model's family takes every option that is given. A folder's family is not known yet.

    Raises:
        UsageError: The family does not take one of them, or the weights do not.
    """
    if options.select_model and not isinstance(options.weights_ref, FinetunerRun):
        raise UsageError("--select-model is for Finetuner runs; use --tower to export one tower of a CLIP")
    if spec.source is not None and not isinstance(spec.source, FolderSource | HubModelSource):
        _check_options(spec, _find_family(spec), options)


def load_towers(spec: BackboneSpec, options: ExportOptions) -> list[ExportableTower]:
    """Build a backbone, load its weights, and return its towers.

    Args:
        spec: The backbone.
        options: Options of the export.

    Raises:
        WeightsError: The weights are not available, or do not fit.
        UsageError: The family does not take one of the options.
    """
    check_options(spec, options)
    if isinstance(spec.source, FolderSource | HubModelSource):
        return _load_folder(spec, spec.source, options)
    if isinstance(spec.source, NamedSource) and isinstance(options.weights_ref, FinetunerRun):
        raise WeightsError(f"{options.weights} is a Finetuner run; export it under its own backbone of the catalogue")
    loader = import_module(_find_family(spec).module)
    request = LoadRequest(source=spec.source, output_dim=spec.output_dim, options=options)
    towers: list[ExportableTower]
    if isinstance(options.weights_ref, FinetunerRun):
        from exporters.families.from_run import read_models

        towers = loader.load_run(request, read_models(spec, options.weights_ref.path, options))
    else:
        towers = loader.load(request, options.weights_ref)
    return towers


def _load_folder(
    spec: BackboneSpec, source: FolderSource | HubModelSource, options: ExportOptions
) -> list[ExportableTower]:
    """Download a model of the hub, find out which family the folder belongs to, and load it.

    Raises:
        WeightsError: The folder cannot be downloaded, recognised or loaded.
        UsageError: The family does not take one of the options.
    """
    from exporters.weights.hub import find_folder

    given = options.weights_ref
    refusal = UsageError(
        f"{spec.name} brings its own weights; leave out --weights, or name an architecture: "
        f"`timm:NAME --weights {options.weights}`"
    )
    if isinstance(given, FinetunerRun | ModelFolder):
        raise refusal
    if isinstance(given, StateDict):
        options = replace(options, weights="pretrained")
    path, weights = find_folder(source, options)
    kind = recognize_folder(path)
    if isinstance(given, StateDict) and kind not in _TRAINED_IN_PLACE:
        raise refusal
    family = FOLDER_FAMILIES[kind]
    _check_options(spec, family, options)
    towers: list[ExportableTower] = import_module(family.module).load_folder(
        FolderRequest(path=path, weights=weights, options=options, model_id=getattr(source, "model_id", None))
    )
    if isinstance(given, StateDict):
        _fill(towers, given, one_tower=options.tower is not None)
    return towers


def _fill(towers: Sequence[ExportableTower], trained: StateDict, *, one_tower: bool) -> None:
    """Replace the weights of a folder by those of a training, which has its names.

    Raises:
        WeightsError: They do not fit.
    """
    from exporters.weights.state_dict import copy_into, read_checkpoint

    checkpoint = read_checkpoint(trained)
    tensors = {name: value for tower in towers for name, value in tower.state_dict().items()}
    copy_into(tensors, checkpoint, partly=one_tower)
    for tower in towers:
        tower.weights = checkpoint.record


def _check_options(spec: BackboneSpec, family: Family, options: ExportOptions) -> None:
    known = [*FAMILIES, *FOLDER_FAMILIES.values()]
    if given := given_flags(options, frozenset[str]().union(*(each.options for each in known)) - family.options):
        raise UsageError(f"{given[0]} is not for {spec.name}; leave it out")


def _find_family(spec: BackboneSpec) -> Family:
    for family in FAMILIES:
        if isinstance(spec.source, family.sources):
            return family
    raise TypeError(f"{spec.name} has no source that a family loads: build its towers, and pass them to export_towers")
