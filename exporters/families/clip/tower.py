"""The two towers of a CLIP, whichever library built it: each with its projection into the space that both share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from exporters.catalogue.spec import ExportOptions
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
    """The text half of a CLIP.

    Attributes:
        encoder: What is traced: ids and mask, ``[batch, sequence]`` int64, to ``[batch, output_dim]``.
        embed: The unmodified model behind its library's own tokenizer: a text to ``[output_dim]``.
        tokenizer: transformers' own.
        preprocessing: What the runtime does instead.
        pooling: How tokens become one vector.
        projections: What follows.
    """

    encoder: nn.Module
    embed: Callable[[str], Tensor]
    tokenizer: PreTrainedTokenizerFast
    preprocessing: TextPreprocessing
    pooling: Pooling
    projections: tuple[Projection, ...]


@dataclass(frozen=True, kw_only=True)
class ClipImage:
    """The image half of a CLIP.

    Attributes:
        backbone: What is traced: ``pixel_values`` ``[batch, 3, height, width]`` float32 to ``[batch, output_dim]``.
        embed: The unmodified model: ``pixel_values`` of one image to ``[1, output_dim]``.
        transforms: Its library's own preprocessing: a PIL image to ``[3, height, width]`` float32.
        preprocessing: What the runtime does instead.
        pooling: How patches become one vector.
        projections: What follows.
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
        text: Its text half.
        image: Its image half.
        output_dim: Length of its embeddings.
        normalized: Whether the library scales them to unit length.
        weights: Where the weights came from.
    """

    text: ClipText
    image: ClipImage
    output_dim: int
    normalized: bool
    weights: Weights


def clip_towers(clip: Clip, options: ExportOptions) -> list[ExportableTower]:
    """Returns the towers that ``options`` ask for: both, or the one that they name."""
    towers: list[ExportableTower] = [ClipTextTower(clip, options), ClipImageTower(clip, options)]
    return [tower for tower in towers if options.tower in (None, tower.name)]


class ClipTextTower(TextTower):
    """The text half of a :class:`Clip` as an ``ExportableTower``."""

    def __init__(self, clip: Clip, options: ExportOptions) -> None:
        """Works out the record; traces and runs nothing yet."""
        self._text = clip.text
        super().__init__(_record("text", clip, options), clip.weights, clip.output_dim, clip.text.tokenizer)

    def encoder(self) -> nn.Module:
        """Returns encoder and projection."""
        return copy.deepcopy(self._text.encoder)

    def embed(self, text: str) -> Tensor:
        """Returns what the unmodified model gives for a text, as its library feeds it."""
        return self._text.embed(text)


class ClipImageTower(ImageTower):
    """The image half of a :class:`Clip` as an ``ExportableTower``."""

    def __init__(self, clip: Clip, options: ExportOptions) -> None:
        """Works out the record; traces and runs nothing yet."""
        self._image = clip.image
        super().__init__(_record("image", clip, options), clip.weights, clip.output_dim, clip.image.transforms)

    def backbone(self) -> nn.Module:
        """Returns encoder and projection."""
        return copy.deepcopy(self._image.backbone)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Returns what the unmodified model gives for one image."""
        return self._image.embed(pixel_values)[0]


def _record(name: TowerName, clip: Clip, options: ExportOptions) -> Tower:
    half = clip.text if name == "text" else clip.image
    preprocessing: Preprocessing = half.preprocessing
    return Tower(
        graph=f"{name}.onnx",
        inputs=preprocessing.graph_inputs(),
        output=TensorSpec(name="embedding", dtype="float32", shape=("batch", clip.output_dim)),
        preprocessing=preprocessing,
        pooling=half.pooling,
        projections=half.projections,
        normalized=clip.normalized if options.normalize is None else options.normalize,
        decided_by="default" if options.normalize is None else "user",
    )
