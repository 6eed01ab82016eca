"""The image tower of a convolutional network: without its head, with pooling and pixel normalisation in the graph."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms._presets import ImageClassification

from exporters.catalogue.options import ExportOptions
from exporters.families.image_tower import ImageTower
from exporters.families.vision.stated import choose_preprocessing
from exporters.families.vision.torchvision_models import input_of
from exporters.families.vision.transforms import wrap_transforms
from exporters.modules.pooling import build_image_pooling
from exporters.modules.projection import ProjectionLayer, project_exactly, stack_projections
from exporters.modules.sharing import copy_sharing_tensors
from runtime.artifact.manifest import Pooling, Projection, Weights
from runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Cnn:
    """A convolutional network as its library built it.

    Attributes:
        model: The unmodified classifier, in evaluation mode: ``[batch, 3, height, width]`` to logits.
        pool: Name of the submodule that pools the feature map.
        head: Name of the submodule whose input is the pooled ``[batch, channels]`` embedding.
        transforms: The preprocessing of its training: a PIL image to ``[3, height, width]``.
        weights: Origin of the weights.
        pooling: Pooling that the checkpoint states; ``None`` for the network's own.
        projections: Linear layers that the checkpoint has after the pooling.
    """

    model: nn.Module
    pool: str
    head: str
    transforms: ImageClassification
    weights: Weights
    pooling: Pooling | None = None
    projections: tuple[ProjectionLayer, ...] = ()


class CnnTower(ImageTower):
    """The image tower of a :class:`Cnn`."""

    def __init__(self, cnn: Cnn, options: ExportOptions, *, output_dim: int) -> None:
        """Build the tower's record. ``output_dim`` is the length of the vector that enters the network's head.

        Raises:
            UsageError: The pooling is not one for CNNs.
        """
        pooling = options.pooling or cnn.pooling or Pooling(method="avg")
        if pooling.method not in ("avg", "gem"):
            raise UsageError(f"pooling {pooling.method} is not for CNNs, expected avg or gem")
        self._cnn = cnn
        self.transforms, preprocessing = choose_preprocessing(
            options, lambda: wrap_transforms(cnn.transforms, options.arithmetic, "torchvision")
        )
        super().__init__(
            preprocessing,
            cnn.projections[-1][0].out_features if cnn.projections else output_dim,
            cnn.weights,
            options,
            pooling=pooling,
            projections=tuple(record for record, _ in cnn.projections),
            stated=bool(cnn.pooling or cnn.projections),
        )

    def backbone(self) -> nn.Module:
        """Return the network without its head, with the record's pooling and the projections."""
        backbone = copy_sharing_tensors(self._cnn.model)
        backbone.set_submodule(self._cnn.pool, build_image_pooling(self.record.pooling), strict=True)
        backbone.set_submodule(self._cnn.head, nn.Identity(), strict=True)
        return nn.Sequential(backbone, *stack_projections(self._cnn.projections))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of the whole network, and of the projections as ``projection.INDEX.weight`` and bias."""
        layers = nn.ModuleList(layer for _, layer in self._cnn.projections).state_dict()
        return self._cnn.model.state_dict() | {f"projection.{name}": value for name, value in layers.items()}

    def with_projection(self, layer: nn.Linear, options: ExportOptions) -> CnnTower:
        """Return the tower of the same network with one more linear layer at its end."""
        record = Projection(
            in_features=layer.in_features, out_features=layer.out_features, bias=True, activation="identity"
        )
        cnn = replace(self._cnn, projections=(*self._cnn.projections, (record, layer)))
        return CnnTower(cnn, options, output_dim=layer.out_features)

    def embed_pixels(self, pixel_values: Tensor) -> Tensor:
        """Return the input of the unmodified model's head, projected in float64 if there are projections.

        No model has GeM pooling itself. For GeM, the input of the model's own pooling is pooled in float64.
        """
        pooling = self.record.pooling
        submodule = self._cnn.head if pooling.method == "avg" else self._cnn.pool
        features = input_of(self._cnn.model, submodule, pixel_values).double().numpy()
        if pooling.p is not None and pooling.eps is not None:
            features = (np.maximum(features, pooling.eps) ** pooling.p).mean(axis=(2, 3)) ** (1 / pooling.p)
        return project_exactly(self._cnn.projections, torch.from_numpy(features))[0]
