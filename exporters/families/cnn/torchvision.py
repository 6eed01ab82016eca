"""Convolutional networks of torchvision: its architectures, its weights from its own cache, its transforms."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import assert_never

import torch
from torch import nn
from torchvision.models import WeightsEnum, get_model, get_model_weights
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from exporters.catalogue.spec import TorchvisionSource
from exporters.catalogue.weights_ref import ModelFolder, ModelWeights, Pretrained, RandomInit, StateDict
from exporters.errors import WeightsError, WeightsUnavailableError
from exporters.families.cnn.tower import Cnn
from exporters.weights.finetuner_run import RunModel
from exporters.weights.random_init import stabilize_activations
from exporters.weights.state_dict import Checkpoint, load_into, read_checkpoint, record_random
from runtime.artifact.manifest import Weights
from runtime.artifact.reader import record_file

# The statistics hardly depend on the image size, and EfficientNet-B7's own size takes seven times longer.
_CALIBRATION_SIZE = 224


def load_cnn(source: TorchvisionSource, weights: ModelWeights | Checkpoint, image_size: int | None = None) -> Cnn:
    """Build a network of torchvision and load its weights.

    Args:
        source: The network.
        weights: The weights; a :class:`Checkpoint` is a state dict that is already in memory.
        image_size: Side of the centre crop in pixels; ``None`` for that of the pretrained weights.

    Raises:
        WeightsUnavailableError: The download fails, or the file does not exist.
        WeightsError: The file is damaged, or does not fit.
    """
    pretrained = get_model_weights(source.builder)["DEFAULT"]
    model = _build(source, weights.seed if isinstance(weights, RandomInit) else 0)
    match weights:
        case Pretrained():
            record = _load_pretrained(model, source, pretrained)
        case RandomInit(seed):
            stabilize_activations(model, _transforms(pretrained, _CALIBRATION_SIZE))
            record = record_random(model, seed)
        case StateDict(path) | ModelFolder(path):
            record = _load_checkpoint(model, source, read_checkpoint(path))
        case Checkpoint():
            record = _load_checkpoint(model, source, weights)
        case _:
            assert_never(weights)
    return Cnn(
        model=model,
        pool=source.pool,
        head=source.head,
        transforms=_transforms(pretrained, image_size),
        weights=record,
    )


def load_cnn_run(source: TorchvisionSource, model: RunModel, image_size: int | None) -> Cnn:
    """Build a network of torchvision with the weights, pooling, head and preprocessing of a Finetuner run.

    Args:
        source: The network.
        model: A model of the run.
        image_size: Side in pixels of the square to which images are resized; ``None`` for that of the run.

    Raises:
        WeightsError: The run does not fit.
    """
    checkpoint, projections = model.split("embed_model.")
    # Finetuner trained its CNNs on images that were resized to a square without keeping their aspect ratio.
    side = image_size or model.image_size
    transforms = ImageClassification(crop_size=side, interpolation=InterpolationMode.BICUBIC)
    transforms.resize_size = [side, side]
    return replace(load_cnn(source, checkpoint), transforms=transforms, pooling=model.pooling, projections=projections)


def _load_checkpoint(model: nn.Module, source: TorchvisionSource, checkpoint: Checkpoint) -> Weights:
    load_into(model, checkpoint.state_dict, ignored=(source.head,), source=checkpoint.source)
    return checkpoint.record


def _load_pretrained(model: nn.Module, source: TorchvisionSource, pretrained: WeightsEnum) -> Weights:
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(pretrained.url).name)
    try:
        state_dict = pretrained.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except Exception as exc:  # urllib, http, torch.hub, pickle and zipfile raise many types
        if cached.exists():
            raise WeightsError(f"{cached} cannot be read ({exc}); delete it and export again") from exc
        raise WeightsUnavailableError(
            f"cannot download {pretrained.url} ({exc}); put the file at {cached}, or use --weights PATH or "
            "--weights random"
        ) from exc
    load_into(model, state_dict, ignored=(source.head,), source=str(cached), advice="delete it, and export again")
    sha256 = record_file(cached).sha256
    published = sha256.startswith(_published_hash(pretrained))
    return Weights(
        origin="pretrained",
        description=f"torchvision {source.builder}",
        revision=pretrained.name if published else None,
        file=cached.name,
        sha256=sha256,
        published=published,
        licence=source.licence if published else None,
    )


def _published_hash(pretrained: WeightsEnum) -> str:
    """Return the first digits of the file's SHA-256, which torchvision puts into its name."""
    match = re.search(r"-([0-9a-f]{8,})\.pth$", pretrained.url)
    if match is None:
        raise WeightsError(f"torchvision's {pretrained.url} states no hash; use --weights PATH")
    return match[1]


def _build(source: TorchvisionSource, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = get_model(source.builder, weights=None)
    return model.eval()


def _transforms(pretrained: WeightsEnum, image_size: int | None) -> ImageClassification:
    """Return the transforms of the weights. For another size, the crop keeps the same share of the image."""
    transforms: ImageClassification = pretrained.transforms()
    if image_size is None:
        return transforms
    resize_size = round(image_size * transforms.resize_size[0] / transforms.crop_size[0])
    resized: ImageClassification = pretrained.transforms(crop_size=image_size, resize_size=resize_size)
    return resized
