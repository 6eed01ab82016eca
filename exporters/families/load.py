"""From an entry of the catalogue to its towers, importing the libraries of its family alone."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from exporters.catalogue.spec import (
    BackboneSpec,
    ClipSource,
    ExportOptions,
    HuggingFaceSource,
    OpenClipSource,
    PointNetSource,
    TorchvisionSource,
    check_options,
    random_seed,
)
from exporters.families.tower import ExportableTower
from exporters.weights.finetuner_run import is_run
from runtime.errors import UsageError


def load_towers(spec: BackboneSpec, options: ExportOptions, *, any_family: bool = False) -> list[ExportableTower]:
    """Builds the backbone, fills it with the weights that ``options`` ask for, and returns its towers.

    Args:
        spec: The backbone.
        options: What the user chose.
        any_family: Whether a text model's folder may be of another architecture: it will not bear the backbone's name.

    Raises:
        WeightsError: The weights cannot be had, or do not fit.
        UsageError: An option is not for this family.
    """
    source = spec.source
    if source is None:
        raise TypeError(f"{spec.name} has no source of weights: build its towers, and hand them to export_towers")
    check_options(spec, options)
    if options.weights != "pretrained" and random_seed(options.weights) is None and is_run(Path(options.weights)):
        from exporters.families.from_run import load_run_towers

        return load_run_towers(spec, source, options)
    if options.select_model:
        raise UsageError("--select-model is for Finetuner run artifacts; a CLIP's one tower is chosen by --tower")
    if isinstance(source, TorchvisionSource):
        from exporters.families.cnn.torchvision import load_cnn
        from exporters.families.cnn.tower import CnnTower

        cnn = load_cnn(source, options.weights, options.image_size)
        return [CnnTower(cnn, options, output_dim=spec.output_dim)]
    if isinstance(source, HuggingFaceSource):
        from exporters.families.transformer.huggingface import load_transformer
        from exporters.families.transformer.tower import TransformerTower

        text = load_transformer(source, options.weights, tokenizer=options.tokenizer_folder, any_family=any_family)
        return [TransformerTower(text, options)]
    if isinstance(source, ClipSource | OpenClipSource):
        from exporters.families.clip.load import load_any_clip
        from exporters.families.clip.tower import clip_towers

        return clip_towers(load_any_clip(source, options.weights, options), options)
    if isinstance(source, PointNetSource):
        from exporters.families.pointnet.load import load_pointnet
        from exporters.families.pointnet.tower import PointNetTower

        return [PointNetTower(load_pointnet(source, options.weights), options)]
    assert_never(source)
