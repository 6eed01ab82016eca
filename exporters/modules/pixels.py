"""Raw pixels to normalised ones, inside the graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class NormalizePixels(nn.Module):
    """``[batch, height, width, 3]`` uint8 to ``[batch, 3, height, width]`` float32.

    The three operations and their order are those of torchvision's transforms (``convert_image_dtype``, then
    ``normalize``), so that the result is the same to the last bit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Keeps the per-channel mean and standard deviation, in units of pixel value / 255."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Casts, scales and normalises."""
        return (pixels.permute(0, 3, 1, 2).to(torch.float32) / 255 - self.mean) / self.std
