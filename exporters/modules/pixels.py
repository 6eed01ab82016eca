"""Normalisation of raw pixels, inside the graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class NormalizePixels(nn.Module):
    """Normalisation: ``[batch, height, width, 3]`` uint8 to ``[batch, 3, height, width]`` float32.

    The operations and their order are those of torchvision's ``convert_image_dtype`` and ``normalize``, so the results
    are equal to the last bit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Keep the mean and standard deviation of each channel, in units of pixel value / 255."""
        super().__init__()
        # They belong to the preprocessing, and are no weights.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Cast, scale and normalise."""
        return (pixels.permute(0, 3, 1, 2).to(torch.float32) / 255 - self.mean) / self.std
