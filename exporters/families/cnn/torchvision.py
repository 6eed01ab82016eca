"""Backbones that torchvision builds: its architecture, its weights through its own loader and cache, its transforms."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn
from torchvision.models import WeightsEnum, get_model, get_model_weights
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from exporters.catalogue.spec import TorchvisionSource, random_seed
from exporters.errors import WeightsError, WeightsUnavailableError
from exporters.families.cnn.tower import Cnn
from exporters.weights.random_init import make_plausible
from exporters.weights.state_dict import Checkpoint, load_into, random_record, read_checkpoint
from runtime.artifact.manifest import Weights
from runtime.artifact.reader import record_file

_CALIBRATION_SIZE = 224  # statistics hardly change with the size, and EfficientNet-B7's own takes seven times longer


def load_cnn(source: TorchvisionSource, weights: str | Checkpoint, image_size: int | None = None) -> Cnn:
    """Builds a network of torchvision and fills it.

    Args:
        source: Which one.
        weights: ``pretrained``, ``random``, ``random:SEED``, the path of a state dict, or one that has been read.
        image_size: Side of the centre crop in pixels; ``None`` for that of the pretrained weights.

    Raises:
        WeightsUnavailableError: The download fails, or there is no such file.
        WeightsError: The file is damaged, or does not fit.
        UsageError: The seed is not a number.
    """
    pretrained = get_model_weights(source.builder)["DEFAULT"]
    seed = random_seed(weights) if isinstance(weights, str) else None
    model = _build(source, seed or 0)
    if weights == "pretrained":
        record = _load_pretrained(model, source, pretrained)
    elif seed is not None:
        make_plausible(model, _transforms(pretrained, _CALIBRATION_SIZE))
        record = random_record(model, seed)
    else:
        checkpoint = read_checkpoint(Path(weights)) if isinstance(weights, str) else weights
        load_into(model, checkpoint.state_dict, unused=(source.head,), source=checkpoint.source)
        record = checkpoint.record
    return Cnn(
        model=model,
        pool=source.pool,
        head=source.head,
        transforms=_transforms(pretrained, image_size),
        weights=record,
    )


def _load_pretrained(model: nn.Module, source: TorchvisionSource, pretrained: WeightsEnum) -> Weights:
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(pretrained.url).name)
    try:
        state_dict = pretrained.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except Exception as exc:  # urllib, http, torch.hub, pickle and zip raise whatever they trip over
        if cached.exists():
            raise WeightsError(f"{cached} cannot be read ({exc}); delete it and export again") from exc
        raise WeightsUnavailableError(
            f"cannot download {pretrained.url} ({exc}); put the file at {cached}, or take --weights PATH or "
            "--weights random"
        ) from exc
    load_into(model, state_dict, unused=(source.head,), source=str(cached), way_out="delete it, and export again")
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
    """Returns the first digits of the file's SHA-256, which torchvision puts into its name."""
    match = re.search(r"-([0-9a-f]{8,})\.pth$", pretrained.url)
    if match is None:
        raise WeightsError(f"torchvision's {pretrained.url} states no hash; take --weights PATH")
    return match[1]


def _build(source: TorchvisionSource, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = get_model(source.builder, weights=None)
    return model.eval()


def _transforms(pretrained: WeightsEnum, image_size: int | None) -> ImageClassification:
    """Returns the transforms of the weights; for another size with the same share of the picture in the crop."""
    transforms: ImageClassification = pretrained.transforms()
    if image_size is None:
        return transforms
    resize_size = round(image_size * transforms.resize_size[0] / transforms.crop_size[0])
    resized: ImageClassification = pretrained.transforms(crop_size=image_size, resize_size=resize_size)
    return resized


def squashing_transforms(side: int) -> ImageClassification:
    """Returns the preprocessing that Finetuner trained its CNNs with: any image becomes a square of ``side`` pixels."""
    transforms = ImageClassification(crop_size=side, interpolation=InterpolationMode.BICUBIC)
    transforms.resize_size = [side, side]
    return transforms
