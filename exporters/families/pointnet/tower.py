"""The mesh tower of PointNet++, with sampling and grouping of points in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exporters.catalogue.options import ExportOptions
from exporters.families.pointnet.network import PointNetEmbedding
from exporters.graph.graph_input import GraphInput
from exporters.samples.point_clouds import Cloud, load_shapes
from runtime.artifact.manifest import (
    PointCloudPreprocessing,
    Pooling,
    Projection,
    TensorSpec,
    Tower,
    TowerName,
    Weights,
)

_SEED = 0  # of the sampling of surfaces; Finetuner used no seed
_TRACED = slice(0, 2)


@dataclass(frozen=True, kw_only=True)
class PointNet:
    """A PointNet++ with its weights.

    Attributes:
        model: In evaluation mode: ``[batch, num_points, 3]`` to ``[batch, output_dim]``.
        num_points: Points that are sampled from a mesh.
        weights: Origin of the weights.
    """

    model: PointNetEmbedding
    num_points: int
    weights: Weights


class PointNetTower:
    """The mesh tower of a :class:`PointNet`."""

    name: TowerName = "mesh"

    def __init__(self, pointnet: PointNet, options: ExportOptions) -> None:
        """Build the tower's record. Nothing is traced or run."""
        sizes = pointnet.model.sizes
        features = sizes.widths[-1][-1]
        preprocessing = PointCloudPreprocessing(
            num_points=pointnet.num_points, min_points=sizes.num_centroids[0], seed=_SEED
        )
        self._model = pointnet.model
        self.weights = pointnet.weights
        self.output_dim = sizes.output_dim
        self.record = Tower(
            graph="mesh.onnx",
            inputs=preprocessing.graph_inputs(),
            output=TensorSpec(name="embedding", dtype="float32", shape=("batch", sizes.output_dim)),
            preprocessing=preprocessing,
            pooling=Pooling(method="max"),
            projections=(
                Projection(in_features=features, out_features=sizes.hidden_dim, bias=True, activation="relu"),
                Projection(
                    in_features=sizes.hidden_dim, out_features=sizes.output_dim, bias=True, activation="identity"
                ),
            ),
            normalized=bool(options.normalize),
            decided_by="default" if options.normalize is None else "user",
        )

    def module(self) -> nn.Module:
        """Return network and vector normalisation in one module."""
        return PointCloudEmbedding(self._model, unit_length=self.record.normalized).eval()

    def inputs(self) -> Sequence[GraphInput]:
        """Return the only input, with two point clouds as the example."""
        example = torch.stack([normalize_cloud(shape) for shape in self.items()[_TRACED]])
        return [GraphInput(spec=self.record.inputs[0], example=example)]

    def items(self) -> Sequence[Cloud]:
        """Return the point clouds that ship with the exporters."""
        return load_shapes()

    def write_files(self, folder: Path) -> None:
        """Write nothing: the manifest holds everything that preprocessing needs."""

    def reference(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the network's embedding of each point cloud alone."""
        with torch.inference_mode():
            rows = torch.cat([self._model(normalize_cloud(shape)[None]) for shape in self.items()]).double()
            vectors = nn.functional.normalize(rows, dim=-1) if self.record.normalized else rows
        array: np.ndarray[Any, np.dtype[np.float32]] = vectors.float().numpy()
        return array


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
