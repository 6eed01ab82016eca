"""The image tower of any library's encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor, nn

from exporters.catalogue.options import ExportOptions
from exporters.errors import WeightsError
from exporters.families.image_tower import ImageTower
from exporters.modules.sharing import copy_sharing_tensors
from exporters.weights.parsing import taking_images
from exporters.weights.state_dict import unwrap
from runtime.artifact.manifest import ImagePreprocessing, Pooling, Projection, Weights


@dataclass(frozen=True, kw_only=True)
class ImageModel:
    """An image encoder as its library built it.

    Attributes:
        backbone: Module to trace: ``pixel_values`` ``[batch, 3, height, width]`` float32 to ``[batch, output_dim]``.
        embed: The unmodified model: ``pixel_values`` of one image to ``[1, output_dim]``.
        transforms: Preprocessing of its library, or the stated one: a PIL image to ``[3, height, width]`` float32.
        preprocessing: The same preprocessing for the runtime.
        pooling: Pooling of features to one vector.
        projections: Linear layers after the pooling.
        layers: Modules after the encoder in words.
        normalized: Whether the library scales embeddings to unit length.
        library: Name of the library, which gives the reference.
        embed_image: The library's own way from an image to ``[output_dim]``, if it is more than ``transforms`` and
            ``embed``.
    """

    backbone: nn.Module
    embed: Callable[[Tensor], Tensor]
    transforms: Callable[[Image.Image], Tensor]
    preprocessing: ImagePreprocessing
    pooling: Pooling = field(default_factory=lambda: Pooling(method="model"))
    projections: tuple[Projection, ...] = ()
    layers: tuple[str, ...] = ()
    normalized: bool = False
    library: str = "torch"
    embed_image: Callable[[Image.Image], Tensor] | None = None


class ImageModelTower(ImageTower):
    """The image tower of an :class:`ImageModel`."""

    def __init__(
        self, model: ImageModel, weights: Weights, options: ExportOptions, *, architecture: str | None = None
    ) -> None:
        """Build the tower's record.

        Raises:
            WeightsError: The model does not take images of this size, or returns no vector.
        """
        self._model, self.architecture, self.transforms = model, architecture, model.transforms
        super().__init__(
            model.preprocessing,
            _output_dim(model.embed, model.preprocessing.crop_size),
            weights,
            options,
            pooling=model.pooling,
            projections=model.projections,
            normalized=model.normalized,
            stated=weights.origin != "random",
            layers=model.layers,
            library=model.library,
        )

    def backbone(self) -> nn.Module:
        """Return encoder and projection."""
        return copy_sharing_tensors(self._model.backbone)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of the encoder by its library's names."""
        return dict(unwrap(self._model.backbone.state_dict()))

    def embed(self, item: Image.Image) -> Tensor:
        """Return the unmodified model's embedding of one image, by its library alone."""
        return super().embed(item) if self._model.embed_image is None else self._model.embed_image(item)

    def embed_pixels(self, pixel_values: Tensor) -> Tensor:
        """Return the unmodified model's embedding of one image."""
        return self._model.embed(pixel_values)[0]


def _output_dim(embed: Callable[[Tensor], Tensor], side: int) -> int:
    with taking_images(side), torch.inference_mode():
        pixel_values = torch.linspace(-1, 1, 3 * side * side).view(1, 3, side, side)
        first, second = embed(pixel_values), embed(pixel_values)
    if first.ndim != 2:
        raise WeightsError(
            f"the model returns features of shape {list(first.shape)}, not one vector for each image; it is no encoder "
            "of whole images"
        )
    if not torch.allclose(first, second, rtol=0, atol=0, equal_nan=True):  # the comparison with the graph refuses NaN
        raise WeightsError("the model draws random numbers, for example a mask, so an image has no fixed embedding")
    return int(first.shape[1])
