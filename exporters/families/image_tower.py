"""The common part of all image towers: normalisation in the graph, and sample photos."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from exporters.families.tower import TRACED, ExportableTower
from exporters.graph.graph_input import GraphInput
from exporters.modules.pixels import NormalizePixels
from exporters.samples.photos import load_photos
from runtime.artifact.manifest import ImagePreprocessing, TowerName
from runtime.preprocess.image import resize_and_crop


class ImageTower(ExportableTower):
    """An ``ExportableTower`` for images. Subclasses add the network and set ``transforms``.

    Attributes:
        transforms: Preprocessing of the model's library: a PIL image to ``[3, height, width]`` float32.
    """

    name: TowerName = "image"
    transforms: Callable[[Image.Image], Tensor]

    @property
    def preprocessing(self) -> ImagePreprocessing:
        """Preprocessing by the runtime, from the record."""
        return cast(ImagePreprocessing, self.record.preprocessing)

    @abstractmethod
    def backbone(self) -> nn.Module:
        """Return the module to trace: ``[batch, 3, height, width]`` float32 to ``[batch, output_dim]``."""

    @abstractmethod
    def embed_pixels(self, pixel_values: Tensor) -> Tensor:
        """Return the unmodified model's embedding of one image: ``[1, 3, height, width]`` to ``[output_dim]``."""

    def embed(self, item: Image.Image) -> Tensor:
        """Return the unmodified model's embedding of one image, with its library's own transforms."""
        return self.embed_pixels(self.transforms(item)[None])

    def module(self) -> nn.Module:
        """Return pixel normalisation (unless the caller does it), backbone and vector normalisation in one module."""
        pixels = self.preprocessing
        normalize = NormalizePixels(pixels.mean, pixels.std) if pixels.arithmetic == "graph" else nn.Identity()
        return ImageEmbedding(normalize, self.backbone(), unit_length=self.record.normalized).eval()

    def inputs(self) -> Sequence[GraphInput]:
        """Return the only input, with two photos as the example."""
        photos = self.items()[TRACED]
        if self.preprocessing.arithmetic == "caller":
            example = torch.stack([self.transforms(photo) for photo in photos])
        else:
            example = torch.from_numpy(np.stack([resize_and_crop(photo, self.preprocessing) for photo in photos]))
        return [GraphInput(spec=self.record.inputs[0], example=example)]

    def items(self) -> Sequence[Image.Image]:
        """Return the photos that ship with the exporters."""
        return load_photos()


class ImageEmbedding(nn.Module):
    """Pixel normalisation, backbone, and scaling to unit length if asked for."""

    def __init__(self, normalize: nn.Module, backbone: nn.Module, *, unit_length: bool) -> None:
        """Keep the parts."""
        super().__init__()
        self.normalize = normalize
        self.backbone = backbone
        self.unit_length = unit_length

    def forward(self, images: Tensor) -> Tensor:
        """Embed images."""
        embedding: Tensor = self.backbone(self.normalize(images))
        return nn.functional.normalize(embedding, dim=-1) if self.unit_length else embedding
