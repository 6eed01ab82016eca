"""A CLIP of the catalogue, and its two towers. Each ends with its projection into the common space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exporters.catalogue.options import ExportOptions
from exporters.families.clip.text import TextModel, TextModelTower
from exporters.families.tower import ExportableTower
from exporters.families.vision.tower import ImageModel, ImageModelTower
from runtime.artifact.manifest import Projection, Weights


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A CLIP as its library built it."""

    text: TextModel
    image: ImageModel
    weights: Weights


def linear(in_features: int, out_features: int, activation: Literal["identity", "gelu"] = "identity") -> Projection:
    """Return the record of a linear layer of a CLIP, which has no bias."""
    return Projection(in_features=in_features, out_features=out_features, bias=False, activation=activation)


def build_clip_towers(clip: Clip, options: ExportOptions) -> list[ExportableTower]:
    """Return both towers, or the one that ``options.tower`` names.

    Raises:
        WeightsError: The runtime cannot prepare texts or images as the library does.
    """
    towers: list[ExportableTower] = []
    if options.tower != "image":
        towers.append(TextModelTower(clip.text, clip.weights, options))
    if options.tower != "text":
        towers.append(ImageModelTower(clip.image, clip.weights, options))
    return towers
