"""Pooling of a feature map, or of token features, to one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from runtime.artifact.manifest import Pooling


class AvgPool(nn.Module):
    """The mean over height and width: ``[batch, channels, height, width]`` to ``[batch, channels]``."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool."""
        return features.mean(dim=(2, 3))


class GeMPool(nn.Module):
    """The generalised mean over height and width: ``[batch, channels, height, width]`` to ``[batch, channels]``.

    Source: Radenović et al. 2018, https://arxiv.org/abs/1711.02512, equation 3.
    """

    def __init__(self, p: float, eps: float) -> None:
        """Keep the exponent and the lower clamp, both above 0."""
        super().__init__()
        self.p = p
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        """Pool."""
        return features.clamp(min=self.eps).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


def build_image_pooling(pooling: Pooling) -> nn.Module:
    """Return the module for the pooling of a feature map."""
    if pooling.p is None or pooling.eps is None:  # Pooling allows that only for avg
        return AvgPool()
    return GeMPool(pooling.p, pooling.eps)


class TokenPool(nn.Module):
    """Pooling of tokens: ``[batch, sequence, dim]`` and a mask ``[batch, sequence]`` to ``[batch, dim]``.

    Padding, where the mask is 0, does not affect the result.
    """

    def __init__(self, pooling: Pooling) -> None:
        """Keep the record; its method is mean, cls, max or gem."""
        super().__init__()
        self.pooling = pooling

    def forward(self, features: Tensor, attention_mask: Tensor) -> Tensor:
        """Pool."""
        if self.pooling.method == "cls":
            return features[:, 0]
        mask = attention_mask.unsqueeze(-1)
        if self.pooling.method == "max":
            return features.masked_fill(mask == 0, torch.finfo(features.dtype).min).amax(dim=1)
        if self.pooling.p is None or self.pooling.eps is None:
            return _masked_mean(features, mask)
        return _masked_mean(features.clamp(min=self.pooling.eps).pow(self.pooling.p), mask).pow(1 / self.pooling.p)


def _masked_mean(features: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(features.dtype)
    # 1e-9 as in sentence-transformers' Pooling: https://github.com/huggingface/sentence-transformers
    return (features * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
