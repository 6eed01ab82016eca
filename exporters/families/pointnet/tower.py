"""The mesh tower of PointNet++, with sampling and grouping of points in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from exporters.catalogue.options import ExportOptions
from exporters.families.pointnet.network import PointNetEmbedding
from exporters.families.tower import TRACED, ExportableTower
from exporters.graph.graph_input import GraphInput
from exporters.samples.point_clouds import Cloud, load_shapes
from runtime.artifact.manifest import PointCloudPreprocessing, Pooling, Projection, TowerName, Weights

_SEED = 0  # of the sampling of surfaces; Finetuner used no seed


@dataclass(frozen=True, kw_only=True)
class PointNet:
    """A PointNet++ in evaluation mode, with the number of points that are sampled from a mesh."""

    model: PointNetEmbedding
    num_points: int
    weights: Weights


class PointNetTower(ExportableTower):
    """The mesh tower of a :class:`PointNet`."""

    name: TowerName = "mesh"

    def __init__(self, pointnet: PointNet, options: ExportOptions) -> None:
        """Build the tower's record."""
        sizes = pointnet.model.sizes
        features, hidden, output_dim = sizes.widths[-1][-1], sizes.hidden_dim, sizes.output_dim
        self._model = pointnet.model
        super().__init__(
            PointCloudPreprocessing(num_points=pointnet.num_points, min_points=sizes.num_centroids[0], seed=_SEED),
            output_dim,
            pointnet.weights,
            options,
            pooling=Pooling(method="max"),
            projections=(
                Projection(in_features=features, out_features=hidden, bias=True, activation="relu"),
                Projection(in_features=hidden, out_features=output_dim, bias=True, activation="identity"),
            ),
        )

    def module(self) -> nn.Module:
        """Return network and vector normalisation in one module."""
        return PointCloudEmbedding(self._model, unit_length=self.record.normalized).eval()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the network's tensors by Finetuner's names."""
        return dict(self._model.state_dict())

    def inputs(self) -> Sequence[GraphInput]:
        """Return the only input, with two point clouds as the example."""
        example = torch.stack([normalize_cloud(shape) for shape in self.items()[TRACED]])
        return [GraphInput(spec=self.record.inputs[0], example=example)]

    def items(self) -> Sequence[Cloud]:
        """Return the point clouds that ship with the exporters."""
        return load_shapes()

    def embed(self, item: Cloud) -> Tensor:
        """Return the network's embedding of a point cloud."""
        embedding: Tensor = self._model(normalize_cloud(item)[None])[0]
        return embedding


class PointCloudEmbedding(nn.Module):
    """A network, and scaling to unit length if asked for."""

    def __init__(self, model: nn.Module, *, unit_length: bool) -> None:
        """Keep the network."""
        super().__init__()
        self.model = model
        self.unit_length = unit_length

    def forward(self, points: Tensor) -> Tensor:
        """Embed point clouds."""
        embedding: Tensor = self.model(points)
        return nn.functional.normalize(embedding, dim=-1) if self.unit_length else embedding


def normalize_cloud(points: Cloud) -> Tensor:
    """Return points centred on their mean, with the farthest at distance 1, as Finetuner prepared them.

    Args:
        points: ``[num_points, 3]``.

    Returns:
        ``[num_points, 3]`` float32, computed in float64, because the last bit can decide which point is farthest.
    """
    exact = torch.from_numpy(points).double()
    centred = exact - exact.mean(dim=0)
    scaled: Tensor = centred / centred.norm(dim=1).max()
    return scaled.float()
