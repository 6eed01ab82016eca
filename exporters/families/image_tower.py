"""The common part of all image towers: normalisation in the graph, sample photos, and the torch reference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from exporters.graph.graph_input import GraphInput
from exporters.modules.pixels import NormalizePixels
from exporters.samples.photos import load_photos
from runtime.artifact.manifest import ImagePreprocessing, Tower, TowerName, Weights
from runtime.preprocess.image import resize_and_crop

Array = np.ndarray[Any, np.dtype[np.float32]]
_TRACED = slice(0, 2)


class ImageTower(ABC):
    """An ``ExportableTower`` for images. Subclasses add the network."""

    name: TowerName = "image"

    def __init__(
        self, record: Tower, weights: Weights, output_dim: int, transforms: Callable[[Image.Image], Tensor]
    ) -> None:
        """Keep the record and the preprocessing.

        Args:
            record: The tower's record, with preprocessing of images.
            weights: Origin of the weights.
            output_dim: Length of an embedding.
            transforms: Preprocessing of the model's library: a PIL image to ``[3, height, width]`` float32.
        """
        self.record = record
        self.weights = weights
        self.output_dim = output_dim
        self._transforms = transforms

    @property
    def preprocessing(self) -> ImagePreprocessing:
        """Preprocessing by the runtime, from the record."""
        if not isinstance(self.record.preprocessing, ImagePreprocessing):
            raise TypeError(f"an image tower has preprocessing of {self.record.preprocessing.kind}, expected image")
        return self.record.preprocessing

    @abstractmethod
    def backbone(self) -> nn.Module:
        """Return the module to trace: ``[batch, 3, height, width]`` float32 to ``[batch, output_dim]``."""

    @abstractmethod
    def embed(self, pixel_values: Tensor) -> Tensor:
        """Return the unmodified model's embedding of one image: ``[1, 3, height, width]`` to ``[output_dim]``."""

    def module(self) -> nn.Module:
        """Return pixel normalisation (unless the caller does it), backbone and vector normalisation in one module."""
        pixels = self.preprocessing
        normalize = NormalizePixels(pixels.mean, pixels.std) if pixels.arithmetic == "graph" else nn.Identity()
        return ImageEmbedding(normalize, self.backbone(), unit_length=self.record.normalized).eval()

    def inputs(self) -> Sequence[GraphInput]:
        """Return the only input, with two photos as the example."""
        photos = self.items()[_TRACED]
        if self.preprocessing.arithmetic == "caller":
            example = torch.stack([self._transforms(photo) for photo in photos])
        else:
            example = torch.from_numpy(np.stack([resize_and_crop(photo, self.preprocessing) for photo in photos]))
        return [GraphInput(spec=self.record.inputs[0], example=example)]

    def items(self) -> Sequence[Image.Image]:
        """Return the photos that ship with the exporters."""
        return load_photos()

    def write_files(self, folder: Path) -> None:
        """Write nothing: the manifest holds everything that preprocessing needs."""
        del folder

    def reference(self) -> Array:
        """Return the unmodified model's embedding of each photo alone, with its library's own transforms."""
        with torch.inference_mode():
            vectors = torch.stack([self.embed(self._transforms(photo)[None]).double() for photo in self.items()])
            rows = nn.functional.normalize(vectors, dim=-1) if self.record.normalized else vectors
        array: Array = rows.float().numpy()
        return array


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
