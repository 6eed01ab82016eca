"""The text tower and the image tower of a CLIP. Each ends with its projection into the common space."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from exporters.catalogue.options import ExportOptions
from exporters.families.image_tower import ImageTower
from exporters.families.text_tower import TextTower
from exporters.families.tower import ExportableTower
from runtime.artifact.manifest import (
    ImagePreprocessing,
    Pooling,
    Preprocessing,
    Projection,
    TensorSpec,
    TextPreprocessing,
    Tower,
    TowerName,
    Weights,
)


@dataclass(frozen=True, kw_only=True)
class ClipText:
    """The text model of a CLIP.

    Attributes:
        encoder: Module to trace: ids and mask, ``[batch, sequence]`` int64, to ``[batch, output_dim]``.
        embed: The unmodified model with its library's own tokenizer: a text to ``[output_dim]``.
        tokenizer: Tokenizer of transformers.
        preprocessing: The same preprocessing for the runtime.
        pooling: Pooling of tokens to one vector.
        projections: Linear layers after the pooling.
    """

    encoder: nn.Module
    embed: Callable[[str], Tensor]
    tokenizer: PreTrainedTokenizerFast
    preprocessing: TextPreprocessing
    pooling: Pooling
    projections: tuple[Projection, ...]


@dataclass(frozen=True, kw_only=True)
class ClipImage:
    """The image model of a CLIP.

    Attributes:
        backbone: Module to trace: ``pixel_values`` ``[batch, 3, height, width]`` float32 to ``[batch, output_dim]``.
        embed: The unmodified model: ``pixel_values`` of one image to ``[1, output_dim]``.
        transforms: Preprocessing of its library: a PIL image to ``[3, height, width]`` float32.
        preprocessing: The same preprocessing for the runtime.
        pooling: Pooling of patches to one vector.
        projections: Linear layers after the pooling.
    """

    backbone: nn.Module
    embed: Callable[[Tensor], Tensor]
    transforms: Callable[[Image.Image], Tensor]
    preprocessing: ImagePreprocessing
    pooling: Pooling
    projections: tuple[Projection, ...]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A CLIP as its library built it.

    Attributes:
        text: Its text model.
        image: Its image model.
        output_dim: Length of its embeddings.
        normalized: Whether its library scales embeddings to unit length.
        weights: Origin of the weights.
    """

    text: ClipText
    image: ClipImage
    output_dim: int
    normalized: bool
    weights: Weights


def build_clip_towers(clip: Clip, options: ExportOptions) -> list[ExportableTower]:
    """Return both towers, or the one that ``options.tower`` names."""
    towers: list[ExportableTower] = [ClipTextTower(clip, options), ClipImageTower(clip, options)]
    return [tower for tower in towers if options.tower in (None, tower.name)]


class ClipTextTower(TextTower):
    """The text tower of a :class:`Clip`."""

    def __init__(self, clip: Clip, options: ExportOptions) -> None:
        """Build the tower's record. Nothing is traced or run."""
        self._text = clip.text
        super().__init__(_record("text", clip, options), clip.weights, clip.output_dim, clip.text.tokenizer)

    def encoder(self) -> nn.Module:
        """Return encoder and projection."""
        return copy.deepcopy(self._text.encoder)

    def embed(self, text: str) -> Tensor:
        """Return the unmodified model's embedding of a text, with its library's own tokenizer."""
        return self._text.embed(text)


class ClipImageTower(ImageTower):
    """The image tower of a :class:`Clip`."""

    def __init__(self, clip: Clip, options: ExportOptions) -> None:
        """Build the tower's record. Nothing is traced or run."""
        self._image = clip.image
        super().__init__(_record("image", clip, options), clip.weights, clip.output_dim, clip.image.transforms)

    def backbone(self) -> nn.Module:
        """Return encoder and projection."""
        return copy.deepcopy(self._image.backbone)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Return the unmodified model's embedding of one image."""
        return self._image.embed(pixel_values)[0]


def _record(name: TowerName, clip: Clip, options: ExportOptions) -> Tower:
    part = clip.text if name == "text" else clip.image
    preprocessing: Preprocessing = part.preprocessing
    return Tower(
        graph=f"{name}.onnx",
        inputs=preprocessing.graph_inputs(),
        output=TensorSpec(name="embedding", dtype="float32", shape=("batch", clip.output_dim)),
        preprocessing=preprocessing,
        pooling=part.pooling,
        projections=part.projections,
        normalized=clip.normalized if options.normalize is None else options.normalize,
        decided_by="default" if options.normalize is None else "user",
    )
