"""From a feature map to one vector."""

from __future__ import annotations

from torch import Tensor, nn

from runtime.manifest import Pooling


class AvgPool(nn.Module):
    """The mean over height and width: ``[batch, channels, height, width]`` to ``[batch, channels]``."""

    def forward(self, features: Tensor) -> Tensor:
        """Pools."""
        return features.mean(dim=(2, 3))


class GeMPool(nn.Module):
    """The generalised mean over height and width: ``[batch, channels, height, width]`` to ``[batch, channels]``.

    Source: Radenović et al. 2018, https://arxiv.org/abs/1711.02512, equation 3.
    """

    def __init__(self, p: float, eps: float) -> None:
        """Keeps the exponent and the lower clamp, both above 0."""
        super().__init__()
        self.p = p
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        """Pools."""
        return features.clamp(min=self.eps).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


def build_pooling(pooling: Pooling) -> nn.Module:
    """Returns the module that does what the record says."""
    if pooling.p is None or pooling.eps is None:  # which Pooling allows for avg alone
        return AvgPool()
    return GeMPool(pooling.p, pooling.eps)
