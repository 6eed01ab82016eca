"""The image tower of a convolutional network: head removed, pooling fused, pixels normalised in the graph."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms._presets import ImageClassification

from exporters.modules.pixels import NormalizePixels
from exporters.modules.pooling import build_image_pooling
from exporters.photos import load_photos
from exporters.spec import ExportOptions
from exporters.towers import GraphInput
from runtime.errors import UsageError
from runtime.manifest import ImagePreprocessing, Pooling, TensorSpec, Tower, TowerName, Weights
from runtime.preprocess.image import resize_and_crop

Array = np.ndarray[Any, np.dtype[np.float32]]
_TRACED_BATCH = 2


@dataclass(frozen=True, kw_only=True)
class Cnn:
    """A network as its library built it.

    Attributes:
        model: The unmodified classifier, in evaluation mode: ``[batch, 3, height, width]`` to logits.
        pool: Name of the submodule that pools the feature map.
        head: Name of the submodule whose input is the pooled ``[batch, channels]`` embedding.
        transforms: The preprocessing of its training: a PIL image to ``[3, height, width]``.
        weights: Where the weights came from.
    """

    model: nn.Module
    pool: str
    head: str
    transforms: ImageClassification
    weights: Weights


class CnnTower:
    """A :class:`Cnn` as an ``ExportableTower``."""

    name: TowerName = "image"

    def __init__(self, cnn: Cnn, options: ExportOptions, *, output_dim: int) -> None:
        """Works out the record; traces and runs nothing yet."""
        self._cnn = cnn
        self.weights = cnn.weights
        self.output_dim = output_dim
        self._normalize = bool(options.normalize)
        self._pooling = options.pooling or Pooling(method="avg")
        if self._pooling.method not in ("avg", "gem"):
            raise UsageError(f"pooling {self._pooling.method} is for texts; images take avg or gem")
        self._preprocessing = _preprocessing(cnn, options)
        self.record = Tower(
            graph="image.onnx",
            inputs=self._preprocessing.graph_inputs(),
            output=TensorSpec(name="embedding", dtype="float32", shape=("batch", output_dim)),
            preprocessing=self._preprocessing,
            pooling=self._pooling,
            normalized=self._normalize,
            decided_by="user" if options.pooling or options.normalize is not None else "default",
        )

    def module(self) -> nn.Module:
        """Returns pixel normalisation (unless the caller does it), backbone, pooling and normalisation in one."""
        backbone = copy.deepcopy(self._cnn.model)
        backbone.set_submodule(self._cnn.pool, build_image_pooling(self._pooling))
        backbone.set_submodule(self._cnn.head, nn.Identity())
        recipe = self._preprocessing
        normalize = NormalizePixels(recipe.mean, recipe.std) if recipe.arithmetic == "graph" else nn.Identity()
        return _Embedding(normalize, backbone, unit_length=self._normalize).eval()

    def inputs(self) -> Sequence[GraphInput]:
        """Returns the one input, with photos for an example."""
        if self._preprocessing.arithmetic == "caller":
            example = torch.stack([self._cnn.transforms(photo) for photo in self.items()[:_TRACED_BATCH]])
        else:
            pixels = [resize_and_crop(photo, self._preprocessing) for photo in self.items()[:_TRACED_BATCH]]
            example = torch.from_numpy(np.stack(pixels))
        return [GraphInput(spec=self.record.inputs[0], example=example)]

    def items(self) -> Sequence[Image.Image]:
        """Returns the photos that ship with the exporters."""
        return load_photos()

    def write_files(self, folder: Path) -> None:
        """Writes nothing: the manifest holds all that preprocessing needs."""

    def reference(self) -> Array:
        """Returns what enters the head of the unmodified model when it sees the photos through its own transforms.

        For GeM, which no model has by itself, it is what enters the model's own pooling, pooled in float64.
        """
        pooling = self._pooling
        watched = self._cnn.head if pooling.method == "avg" else self._cnn.pool
        rows = [self._input_of(watched, self._cnn.transforms(photo)[None]) for photo in self.items()]
        vectors = np.concatenate(rows).astype(np.float64)
        if pooling.p is not None and pooling.eps is not None:
            vectors = _gem(vectors, pooling.p, pooling.eps)
        if self._normalize:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors.astype(np.float32)

    def _input_of(self, submodule: str, pixel_values: Tensor) -> Array:
        with torch.inference_mode(), _captured_input(self._cnn.model.get_submodule(submodule)) as captured:
            self._cnn.model(pixel_values)
        row: Array = captured[0].numpy()
        return row


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


@contextmanager
def _captured_input(module: nn.Module) -> Iterator[list[Tensor]]:
    captured: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, arguments: captured.append(arguments[0]))
    try:
        yield captured
    finally:
        hook.remove()


def _gem(features: np.ndarray[Any, Any], p: float, eps: float) -> np.ndarray[Any, Any]:
    means: np.ndarray[Any, Any] = (np.maximum(features, eps) ** p).mean(axis=(2, 3)) ** (1 / p)
    return means


def _preprocessing(cnn: Cnn, options: ExportOptions) -> ImagePreprocessing:
    transforms = cnn.transforms
    (crop_size,), (resize_size,) = transforms.crop_size, transforms.resize_size
    red, green, blue = transforms.mean
    red_std, green_std, blue_std = transforms.std
    return ImagePreprocessing(
        resize_size=resize_size,
        interpolation=transforms.interpolation.value,
        crop_size=crop_size,
        mean=(red, green, blue),
        std=(red_std, green_std, blue_std),
        arithmetic="graph" if options.input == "uint8" else "caller",
    )
