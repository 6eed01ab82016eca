"""Random weights of any image encoder: batch norms that fit photos."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor, nn

from exporters.samples.photos import load_photos
from exporters.weights.random_init import calibrate_batch_norms


def calibrate(model: nn.Module, transforms: Callable[[Image.Image], Tensor]) -> None:
    """Calibrate the batch norms of a random model over the photos, in place, if it has any."""
    if any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.modules()):
        calibrate_batch_norms(model, torch.stack([transforms(photo) for photo in load_photos()]))
