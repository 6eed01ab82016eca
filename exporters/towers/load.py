"""From an entry of the catalogue to its tower, importing the libraries of its family alone."""

from __future__ import annotations

from typing import assert_never

from exporters.registry import find_source
from exporters.spec import BackboneSpec, ExportOptions, HuggingFaceSource, TorchvisionSource
from exporters.towers import ExportableTower


def load_tower(spec: BackboneSpec, options: ExportOptions) -> ExportableTower:
    """Builds the backbone, fills it with the weights that ``options`` ask for, and returns its tower.

    Raises:
        WeightsError: The weights cannot be had, or do not fit.
        UsageError: An option is not for this family.
    """
    source = find_source(spec)
    if isinstance(source, TorchvisionSource):
        from exporters.sources.torchvision import load_cnn
        from exporters.towers.cnn import CnnTower

        cnn = load_cnn(source, options.weights, options.image_size)
        return CnnTower(cnn, options, output_dim=spec.output_dim)
    if isinstance(source, HuggingFaceSource):
        from exporters.sources.huggingface import load_text
        from exporters.towers.text import TextTower

        return TextTower(load_text(source, options.weights), options)
    assert_never(source)
