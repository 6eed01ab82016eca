"""Convolutional networks of torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporters.catalogue.spec import TorchvisionSource
from exporters.catalogue.weights_ref import ModelWeights
from exporters.families.family import Family, LoadRequest

if TYPE_CHECKING:
    from exporters.families.tower import ExportableTower
    from exporters.weights.finetuner_run import RunModel


def _load(request: LoadRequest[TorchvisionSource], weights: ModelWeights) -> list[ExportableTower]:
    from exporters.families.cnn.torchvision import load_cnn
    from exporters.families.cnn.tower import CnnTower

    cnn = load_cnn(request.source, weights, request.options.image_size)
    return [CnnTower(cnn, request.options, output_dim=request.output_dim)]


def _load_run(request: LoadRequest[TorchvisionSource], models: Sequence[RunModel]) -> list[ExportableTower]:
    from exporters.families.cnn.torchvision import load_cnn_run
    from exporters.families.cnn.tower import CnnTower
    from exporters.families.from_run import check_output_dim, only_model

    model = only_model(models)
    tower = CnnTower(
        load_cnn_run(request.source, model, request.options.image_size), request.options, output_dim=request.output_dim
    )
    check_output_dim(model, tower)
    return [tower]


FAMILY = Family(
    sources=(TorchvisionSource,),
    options=frozenset({"pooling", "image_size", "input"}),
    load=_load,
    load_run=_load_run,
)
