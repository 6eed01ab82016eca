"""Image encoders of timm: any architecture of it, its folders and its checkpoints."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import timm
import torch
from torch import nn

from exporters.catalogue.names import unknown_model
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import HubModelSource, TimmSource
from exporters.catalogue.weights_ref import ModelFolder, ModelWeights, Pretrained, RandomInit
from exporters.errors import WeightsError, WeightsUnavailableError
from exporters.families.family import FolderRequest, LoadRequest
from exporters.families.tower import ExportableTower
from exporters.families.vision.pixels import Preparation
from exporters.families.vision.stated import choose_preprocessing
from exporters.families.vision.tower import ImageModel, ImageModelTower
from exporters.families.vision.transforms import building_transforms, wrap_transforms
from exporters.weights.hub import find_folder
from exporters.weights.load_watch import quiet_logging
from exporters.weights.parsing import summarize_error
from exporters.weights.random_init import calibrate_on_photos
from exporters.weights.state_dict import check_head, head_widths, load_into, read_checkpoint, record_random, seeded
from runtime.artifact.manifest import Weights


def load(request: LoadRequest[TimmSource], weights: ModelWeights) -> list[ExportableTower]:
    """Build a model of timm without its classifier, load its weights, and return its tower.

    Raises:
        UnknownBackboneError: timm has no such model.
        WeightsError: The weights are not available, or do not fit.
    """
    name, options = request.source.model_name, request.options
    if not timm.is_model(name):
        raise unknown_model("timm", name, timm.list_models())
    if isinstance(weights, ModelFolder):
        raise WeightsError(f"{weights.path} is a folder; name it instead of timm:{name}, or give the file in it")
    if isinstance(weights, Pretrained):
        return [_load_pretrained(name, options)]
    model = _create(name, options.image_size, seed=weights.seed if isinstance(weights, RandomInit) else 0)
    if isinstance(weights, RandomInit):
        return [_tower(model, weights, options)]
    checkpoint = read_checkpoint(weights)
    load_into(model, checkpoint.state_dict, ignored=_classifiers(model), source=checkpoint.source)
    check_head(model, checkpoint, _head_widths(name))
    return [_tower(model, checkpoint.record, options)]


def load_folder(request: FolderRequest) -> list[ExportableTower]:
    """Load a folder that timm saved, and return its tower.

    Raises:
        WeightsError: The folder does not fit timm.
    """
    name, options, seed = f"local-dir:{request.path}", request.options, request.weights.seed
    if seed is None:
        return [_tower(_create(name, options.image_size, pretrained=True), request.weights, options)]
    return [_tower(_create(name, options.image_size, seed=seed), RandomInit(seed), options)]


def _load_pretrained(name: str, options: ExportOptions) -> ExportableTower:
    """Download the published weights of a model, and let timm load them.

    Raises:
        WeightsUnavailableError: There are none on the hub, or it cannot be reached.
    """
    try:
        config: Any = timm.get_pretrained_cfg(name)
    except RuntimeError as exc:
        tags = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*")) or "none"
        raise WeightsUnavailableError(f"timm has no weights {name} ({exc}); those of this model are {tags}") from exc
    hub_id = config.hf_hub_id if config is not None else None
    if not hub_id:
        raise WeightsUnavailableError(
            f"timm publishes no weights of {name} on the hub; use --weights FILE, or --weights random"
        )
    folder, record = find_folder(HubModelSource(model_id=hub_id), options)
    file = folder / (record.file or "")
    model = _create(name, options.image_size, pretrained=True, pretrained_cfg_overlay={"file": str(file)})
    return _tower(model, replace(record, description=f"timm {name}", licence=config.license), options)


def _create(name: str, image_size: int | None, *, seed: int = 0, **settings: Any) -> nn.Module:
    """Build a model, and take its classifier off. timm itself checks that the weights of the whole model fit."""
    try:
        with seeded(seed), quiet_logging():
            model: Any = timm.create_model(name, img_size=image_size, **settings)
            model.reset_classifier(0)
    except TypeError as exc:
        if image_size is None or "img_size" not in str(exc):
            raise WeightsError(f"timm cannot build {name} ({summarize_error(exc)})") from exc
        return _create(name, None, seed=seed, **settings)  # a CNN takes any size
    except Exception as exc:  # timm, torch and safetensors raise many types
        raise WeightsError(f"timm cannot load {name} ({summarize_error(exc)})") from exc
    evaluated: nn.Module = model.eval()
    return evaluated


def _tower(model: Any, weights: Weights | RandomInit, options: ExportOptions) -> ExportableTower:
    side = options.image_size
    data: Any = timm.data
    settings = data.resolve_model_data_config(model)
    if side is not None:
        settings["input_size"] = (3, side, side)

    def read_own() -> Preparation:
        with building_transforms("timm", settings):
            own = data.create_transform(**settings, is_training=False)
        return wrap_transforms(own, options.arithmetic, "timm")

    transforms, preprocessing = choose_preprocessing(options, read_own)
    if isinstance(weights, RandomInit):
        calibrate_on_photos(model, transforms)
        weights = record_random(model, weights.seed)
    image = ImageModel(
        backbone=model,
        embed=model,
        transforms=transforms,
        preprocessing=preprocessing,
        layers=(f"timm forward_head, pooling {_pool_type(model)}",),
        library="timm",
    )
    architecture = model.pretrained_cfg.get("architecture") or type(model).__name__
    return ImageModelTower(image, weights, options, architecture=architecture)


def _pool_type(model: Any) -> str:
    pool = getattr(model, "global_pool", "own")
    return str(getattr(pool, "pool_type", pool))


def _classifiers(model: Any) -> tuple[str, ...]:
    names = model.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _head_widths(name: str) -> dict[str, int]:
    """Return the number of inputs of each weight of a model's own classifiers, by key."""
    with torch.device("meta"), quiet_logging():
        model: Any = timm.create_model(name)
    return {key: width for head in _classifiers(model) for key, width in head_widths(model, head).items()}
