"""What every image tower shares: pixels normalised in the graph, photos, the library's own transforms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from exporters.families.tower import GraphInput
from exporters.modules.pixels import NormalizePixels
from exporters.samples.photos import load_photos
from runtime.artifact.manifest import ImagePreprocessing, Tower, TowerName, Weights
from runtime.preprocess.image import resize_and_crop

Array = np.ndarray[Any, np.dtype[np.float32]]
_TRACED = slice(0, 2)


class ImageTower(ABC):
    """An ``ExportableTower`` of images, but for the network itself."""

    name: TowerName = "image"

    def __init__(
        self, record: Tower, weights: Weights, output_dim: int, transforms: Callable[[Image.Image], Tensor]
    ) -> None:
        """Keeps what the network's family settled.

        Args:
            record: The tower's record; its preprocessing is that of images.
            weights: Where the weights came from.
            output_dim: Length of an embedding.
            transforms: The library's own preprocessing: a PIL image to ``[3, height, width]`` float32.
        """
        if not isinstance(record.preprocessing, ImagePreprocessing):
            raise TypeError(f"an image tower has no preprocessing of {record.preprocessing.kind}")
        self.record = record
        self.weights = weights
        self.output_dim = output_dim
        self._transforms = transforms
        self._preprocessing = record.preprocessing

    @abstractmethod
    def backbone(self) -> nn.Module:
        """Returns what is traced: ``pixel_values`` ``[batch, 3, height, width]`` float32 to ``[batch, output_dim]``."""

    @abstractmethod
    def embed(self, pixel_values: Tensor) -> Tensor:
        """Returns what the unmodified model gives for one image: ``[1, 3, height, width]`` to ``[output_dim]``."""

    def module(self) -> nn.Module:
        """Returns pixel normalisation (unless the caller does it), backbone and normalisation in one."""
        recipe = self._preprocessing
        normalize = NormalizePixels(recipe.mean, recipe.std) if recipe.arithmetic == "graph" else nn.Identity()
        return _Embedding(normalize, self.backbone(), unit_length=self.record.normalized).eval()

    def inputs(self) -> Sequence[GraphInput]:
        """Returns the one input, with photos for an example."""
        photos = self.items()[_TRACED]
        if self._preprocessing.arithmetic == "caller":
            example = torch.stack([self._transforms(photo) for photo in photos])
        else:
            example = torch.from_numpy(np.stack([resize_and_crop(photo, self._preprocessing) for photo in photos]))
        return [GraphInput(spec=self.record.inputs[0], example=example)]

    def items(self) -> Sequence[Image.Image]:
        """Returns the photos that ship with the exporters."""
        return load_photos()

    def write_files(self, folder: Path) -> None:
        """Writes nothing: the manifest holds all that preprocessing needs."""
        del folder

    def reference(self) -> Array:
        """Returns what the unmodified model gives for each photo alone, through its own library's transforms."""
        with torch.inference_mode():
            vectors = torch.stack([self.embed(self._transforms(photo)[None]).double() for photo in self.items()])
            rows = nn.functional.normalize(vectors, dim=-1) if self.record.normalized else vectors
        array: Array = rows.float().numpy()
        return array


class _Embedding(nn.Module):
    """From the graph's input to its output."""

    def __init__(self, normalize: nn.Module, backbone: nn.Module, *, unit_length: bool) -> None:
        super().__init__()
        self.normalize = normalize
        self.backbone = backbone
        self.unit_length = unit_length

    def forward(self, images: Tensor) -> Tensor:
        embedding: Tensor = self.backbone(self.normalize(images))
        return nn.functional.normalize(embedding, dim=-1) if self.unit_length else embedding
