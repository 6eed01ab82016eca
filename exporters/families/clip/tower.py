"""The two towers of a model of texts and images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from exporters.catalogue.options import ExportOptions
from exporters.families.clip.text import TextModel, TextModelTower
from exporters.families.tower import ExportableTower
from exporters.families.vision.tower import ImageModel, ImageModelTower
from runtime.artifact.manifest import Projection, Weights


def linear(in_features: int, out_features: int, activation: Literal["identity", "gelu"] = "identity") -> Projection:
    """Return the record of a linear layer of a CLIP, which has no bias."""
    return Projection(in_features=in_features, out_features=out_features, bias=False, activation=activation)


def build_towers(
    options: ExportOptions,
    *,
    text: Callable[[], TextModel],
    image: Callable[[], ImageModel],
    weights: Callable[[], Weights],
    architecture: str | None = None,
) -> list[ExportableTower]:
    """Return both towers, or the one that ``options.tower`` names.

    Args:
        options: Options of the export.
        text: Returns the text half; called only if it is exported.
        image: The same for the image half. It may calibrate random weights, so it is called before ``weights``.
        weights: Returns the record of the weights.
        architecture: Architecture of a model outside the catalogue, by its library's name.

    Raises:
        WeightsError: The runtime cannot prepare texts or images as the library does.
    """
    image_model = image() if options.tower != "text" else None
    record = weights()
    towers: list[ExportableTower] = []
    if options.tower != "image":
        towers.append(TextModelTower(text(), record, options, architecture=architecture))
    if image_model is not None:
        towers.append(ImageModelTower(image_model, record, options, architecture=architecture))
    return towers
