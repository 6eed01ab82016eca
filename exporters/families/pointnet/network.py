"""The network of PointNet++: point clouds to embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from exporters.modules.point_sampling import farthest_points, nearest_neighbors


@dataclass(frozen=True, kw_only=True)
class PointNetSizes:
    """The sizes of a network. The defaults are those of ``pointnet-base``.

    Attributes:
        num_centroids: Centroids of the first and second level, descending. The first is the smallest ``num_points``.
        num_neighbors: Neighbours of each centroid, for these two levels.
        widths: Widths of the shared MLP's layers, for the three levels.
        hidden_dim: Width between the projector's two layers.
        output_dim: Length of an embedding.

    Source: the single-scale network for classification of Qi et al. 2017, https://arxiv.org/abs/1706.02413. The
    neighbours by number instead of radius and the projector are Finetuner's.
    """

    num_centroids: tuple[int, int] = (512, 128)
    num_neighbors: tuple[int, int] = (32, 64)
    widths: tuple[Sequence[int], Sequence[int], Sequence[int]] = ((64, 64, 128), (128, 128, 256), (256, 512, 1024))
    hidden_dim: int = 4096
    output_dim: int = 512


class PointNetEmbedding(nn.Module):
    """A PointNet++ with projector. Its state dict has the names of Finetuner's checkpoints.

    Source: Qi et al. 2017, https://arxiv.org/abs/1706.02413.

    Attributes:
        sizes: The sizes of its layers.
    """

    def __init__(self, sizes: PointNetSizes | None = None) -> None:
        """Build the layers, with torch's initial weights."""
        super().__init__()
        self.sizes = sizes = sizes or PointNetSizes()
        self._point_encoder = PointEncoder(sizes)
        self._projector = Projector(sizes.widths[-1][-1], sizes.hidden_dim, sizes.output_dim)

    def forward(self, points: Tensor) -> Tensor:
        """Embed point clouds.

        Args:
            points: ``[batch, num_points, 3]`` float32, centred on the mean, the farthest point at distance 1;
                ``num_points`` at least the number of centroids of the first level. With fewer points, some are chosen
                twice. With fewer points than neighbours, the network fails.

        Returns:
            ``[batch, output_dim]`` float32, not of unit length.
        """
        embedding: Tensor = self._projector(self._point_encoder(points))
        return embedding


class PointEncoder(nn.Module):
    """Three levels of set abstraction: ``[batch, num_points, 3]`` to ``[batch, features]``."""

    def __init__(self, sizes: PointNetSizes) -> None:
        """Build the shared MLP of each level."""
        super().__init__()
        first, second, third = sizes.widths
        self.num_centroids = sizes.num_centroids
        self.num_neighbors = sizes.num_neighbors
        self.sa1 = SetAbstraction([3, *first])
        self.sa2 = SetAbstraction([3 + first[-1], *second])
        self.sa3 = SetAbstraction([3 + second[-1], *third])

    def forward(self, points: Tensor) -> Tensor:
        """Encode point clouds."""
        first, second = self.num_centroids
        chosen = farthest_points(points.float(), first)  # always in float32: other distances choose other points
        centroids = _take(points, chosen)
        features = self.sa1(_group(points, None, centroids, self.num_neighbors[0]))
        # Farthest point sampling of its own result chooses the same points again, so the second level is a slice.
        features = self.sa2(_group(centroids, features, centroids[:, :second], self.num_neighbors[1]))
        encoded: Tensor = self.sa3(_group_all(centroids[:, :second], features))
        return encoded[:, 0]


class SetAbstraction(nn.Module):
    """An MLP shared by all points, then the maximum of each group.

    ``[batch, groups, points, channels]`` to ``[batch, groups, features]``.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        """Build a layer between each two widths. The first width is the number of channels."""
        super().__init__()
        # 1x1 convolutions, as in the checkpoints; linear layers over the last axis would also trace far slower
        self.mlp_convs = nn.ModuleList(nn.Conv2d(before, after, 1) for before, after in pairwise(widths))
        self.mlp_bns = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])

    def forward(self, groups: Tensor) -> Tensor:
        """Apply the MLP and take the maximum of each group."""
        features = groups.permute(0, 3, 1, 2)
        for conv, norm in zip(self.mlp_convs, self.mlp_bns, strict=True):
            features = torch.relu(norm(conv(features)))
        return features.amax(dim=3).transpose(1, 2)


class Projector(nn.Module):
    """Two linear layers: ``[batch, features]`` to ``[batch, output_dim]``."""

    def __init__(self, features: int, hidden_dim: int, output_dim: int) -> None:
        """Build the layers."""
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(features, hidden_dim, bias=False),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, output_dim),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Project features to embeddings."""
        embedding: Tensor = self.model(features)
        return embedding


def _group(points: Tensor, features: Tensor | None, centroids: Tensor, count: int) -> Tensor:
    """Return each centroid's neighbours, as ``[batch, centroids, count, 3 + features]``."""
    neighbors = nearest_neighbors(points.float(), centroids.float(), count)
    relative = _take(points, neighbors) - centroids[:, :, None]
    return relative if features is None else torch.cat([relative, _take(features, neighbors)], dim=-1)


def _group_all(points: Tensor, features: Tensor) -> Tensor:
    """Return all points as one group around their mean, ``[batch, 1, points, 3 + features]``."""
    relative = points - points.mean(dim=1, keepdim=True)
    return torch.cat([relative, features], dim=-1)[:, None]


def _take(rows: Tensor, indices: Tensor) -> Tensor:
    """Return ``rows[b, indices[b]]`` for each b: ``[batch, n, channels]`` to ``[batch, ..., channels]``."""
    batch, count, _ = rows.shape
    starts = torch.arange(batch, device=rows.device) * count
    return rows.flatten(0, 1)[indices + starts.view(-1, *[1] * (indices.dim() - 1))]
