"""Weights that torchvision publishes, from its own cache, and their transforms."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn
from torchvision.models import WeightsEnum
from torchvision.transforms._presets import ImageClassification

from exporters.errors import WeightsError, WeightsUnavailableError
from exporters.weights.state_dict import load_into
from runtime.artifact.manifest import Weights
from runtime.artifact.reader import record_file

LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k, whose own terms of access apply"
# DenseNets were published before their submodules were renamed.
# Source: https://github.com/pytorch/vision/blob/main/torchvision/models/densenet.py (_load_state_dict)
_OLD_KEY = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


def load_pretrained(model: nn.Module, name: str, head: str, pretrained: WeightsEnum) -> Weights:
    """Load the published weights into torchvision's model ``name``, and return their record. ``head`` may stay random.

    Raises:
        WeightsUnavailableError: The download fails.
        WeightsError: The file is damaged, or states no hash.
    """
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
    state_dict = {_OLD_KEY.sub(r"\1\2", key): value for key, value in state_dict.items()}
    load_into(model, state_dict, ignored=(head,), source=str(cached), advice="delete it, and export again")
    sha256 = record_file(cached).sha256
    published = sha256.startswith(_published_hash(pretrained))
    return Weights(
        origin="pretrained",
        description=f"torchvision {name}",
        revision=pretrained.name if published else None,
        file=cached.name,
        sha256=sha256,
        published=published,
        licence=pretrained.meta.get("license", LICENCE) if published else None,  # SWAG has its own
    )


def _published_hash(pretrained: WeightsEnum) -> str:
    """Return the first digits of the file's SHA-256, which torchvision puts into its name."""
    match = re.search(r"-([0-9a-f]{8,})\.pth$", pretrained.url)
    if match is None:
        raise WeightsError(f"torchvision's {pretrained.url} states no hash; use --weights PATH")
    return match[1]


def published_transforms(pretrained: WeightsEnum, image_size: int | None) -> ImageClassification:
    """Return the transforms of the weights. For another size, the crop keeps the same share of the image."""
    transforms: ImageClassification = pretrained.transforms()
    if image_size is None:
        return transforms
    resize_size = round(image_size * transforms.resize_size[0] / transforms.crop_size[0])
    resized: ImageClassification = pretrained.transforms(crop_size=image_size, resize_size=resize_size)
    return resized
