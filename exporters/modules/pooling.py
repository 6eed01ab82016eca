"""Pooling of a feature map, or of token features, to one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from runtime.artifact.manifest import Pooling, PoolingMethod


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
    if pooling.p is not None and pooling.eps is not None:  # Pooling allows that only for gem
        return GeMPool(pooling.p, pooling.eps)
    if pooling.method == "avg":
        return AvgPool()
    raise NotImplementedError(f"the pooling {pooling.method} of a feature map")


class TokenPool(nn.Module):
    """Pooling of tokens: ``[batch, sequence, dim]`` and a mask ``[batch, sequence]`` to ``[batch, poolings * dim]``.

    Padding, where the mask is 0, does not affect the result. It has to be on the right.
    """

    def __init__(self, pooling: Pooling, *, skips_prompt: bool = False) -> None:
        """Keep the record. ``skips_prompt`` tells whether the mask may begin with zeros, for the tokens of a prompt."""
        super().__init__()
        self.pooling, self.skips_prompt = pooling, skips_prompt

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Pool."""
        methods = (self.pooling.method, *self.pooling.others)
        pooled = [self._pool(method, features, mask) for method in methods]
        return torch.cat(pooled, dim=-1) if len(pooled) > 1 else pooled[0]

    def _pool(self, method: PoolingMethod, features: Tensor, mask: Tensor) -> Tensor:
        if method == "cls":
            return _take(features, mask.argmax(dim=1)) if self.skips_prompt else features[:, 0]
        if method == "lasttoken":
            positions = torch.arange(1, mask.shape[1] + 1)
            last = (mask * positions).amax(dim=1)
            # sentence-transformers gives zeros for a text without tokens
            return _take(features, (last - 1).clamp(min=0)) * (last > 0).unsqueeze(-1).to(features.dtype)
        if method == "max":
            return features.masked_fill(mask.unsqueeze(-1) == 0, torch.finfo(features.dtype).min).amax(dim=1)
        if method == "gem" and self.pooling.p is not None and self.pooling.eps is not None:
            powers = features.clamp(min=self.pooling.eps).pow(self.pooling.p)
            return _weighted_mean(powers, mask).pow(1 / self.pooling.p)
        if method == "weightedmean":
            return _weighted_mean(features, mask * torch.arange(1, mask.shape[1] + 1))
        if method == "mean_sqrt_len_tokens":
            count = mask.sum(dim=1, keepdim=True).to(features.dtype)
            return _weighted_mean(features, mask) * count.sqrt()
        if method == "mean":
            return _weighted_mean(features, mask)
        raise NotImplementedError(f"the pooling {method} of tokens")


def _take(features: Tensor, positions: Tensor) -> Tensor:
    """Return one token of each row: ``[batch, sequence, dim]`` at ``[batch]`` to ``[batch, dim]``."""
    index = positions.view(-1, 1, 1).expand(-1, 1, features.shape[-1])
    return features.gather(1, index).squeeze(1)


def _weighted_mean(features: Tensor, weights: Tensor) -> Tensor:
    weights = weights.unsqueeze(-1).to(features.dtype)
    # 1e-9 as in sentence-transformers' Pooling: https://github.com/huggingface/sentence-transformers
    return (features * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
