"""The text tower and the image tower of a CLIP. Each ends with its projection into the common space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from exporters.catalogue.options import ExportOptions
from exporters.families.image_tower import ImageTower
from exporters.families.text_tower import TextTower
from exporters.families.tower import ExportableTower
from exporters.families.vision.stated import state_preprocessing
from exporters.modules.sharing import copy_sharing_tensors
from runtime.artifact.manifest import ImagePreprocessing, Pooling, Projection, TextPreprocessing, Weights


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
        projection: Linear layer after the pooling.
    """

    backbone: nn.Module
    embed: Callable[[Tensor], Tensor]
    transforms: Callable[[Image.Image], Tensor]
    preprocessing: ImagePreprocessing
    projection: Projection


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A CLIP as its library built it. ``normalized`` tells whether the library scales embeddings to unit length."""

    text: ClipText
    image: ClipImage
    output_dim: int
    normalized: bool
    weights: Weights


def linear(in_features: int, out_features: int, activation: Literal["identity", "gelu"] = "identity") -> Projection:
    """Return the record of a linear layer of a CLIP, which has no bias."""
    return Projection(in_features=in_features, out_features=out_features, bias=False, activation=activation)


def build_clip_towers(clip: Clip, options: ExportOptions) -> list[ExportableTower]:
    """Return both towers, or the one that ``options.tower`` names."""
    towers: list[ExportableTower] = [ClipTextTower(clip, options), ClipImageTower(clip, options)]
    return [tower for tower in towers if options.tower in (None, tower.name)]


class ClipTextTower(TextTower):
    """The text tower of a :class:`Clip`."""

    def __init__(self, clip: Clip, options: ExportOptions) -> None:
        """Build the tower's record."""
        self._text = text = clip.text
        self.tokenizer = text.tokenizer
        super().__init__(
            text.preprocessing,
            clip.output_dim,
            clip.weights,
            options,
            pooling=text.pooling,
            projections=text.projections,
            normalized=clip.normalized,
        )

    def encoder(self) -> nn.Module:
        """Return encoder and projection."""
        return copy_sharing_tensors(self._text.encoder)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of the text model by its library's names."""
        return dict(self._text.encoder.state_dict())

    def embed(self, item: str) -> Tensor:
        """Return the unmodified model's embedding of a text, with its library's own tokenizer."""
        return self._text.embed(item)


class ClipImageTower(ImageTower):
    """The image tower of a :class:`Clip`."""

    def __init__(self, clip: Clip, options: ExportOptions) -> None:
        """Build the tower's record."""
        self._image = image = clip.image
        self.transforms, preprocessing = state_preprocessing(options, image.transforms, image.preprocessing)
        super().__init__(
            preprocessing,
            clip.output_dim,
            clip.weights,
            options,
            pooling=Pooling(method="cls"),
            projections=(image.projection,),
            normalized=clip.normalized,
        )

    def backbone(self) -> nn.Module:
        """Return encoder and projection."""
        return copy_sharing_tensors(self._image.backbone)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of the image model by its library's names."""
        return dict(self._image.backbone.state_dict())

    def embed_pixels(self, pixel_values: Tensor) -> Tensor:
        """Return the unmodified model's embedding of one image."""
        return self._image.embed(pixel_values)[0]
