"""PointNet++ for meshes and point clouds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporters.catalogue.spec import PointNetSource
from exporters.catalogue.weights_ref import ModelWeights, Pretrained
from exporters.errors import WeightsUnavailableError
from exporters.families.family import Family, LoadRequest

if TYPE_CHECKING:
    from exporters.families.tower import ExportableTower
    from exporters.weights.finetuner_run import RunModel


_UNPUBLISHED = (
    "there are no pretrained weights of PointNet++: the service that published them is gone; use --weights PATH with "
    "the artifact of your own Finetuner run or a state dict, or --weights random"
)


def _load(request: LoadRequest[PointNetSource], weights: ModelWeights) -> list[ExportableTower]:
    if isinstance(weights, Pretrained):
        raise WeightsUnavailableError(_UNPUBLISHED)
    from exporters.families.pointnet.load import load_pointnet
    from exporters.families.pointnet.tower import PointNetTower

    return [PointNetTower(load_pointnet(request.source, weights), request.options)]


def _load_run(request: LoadRequest[PointNetSource], models: Sequence[RunModel]) -> list[ExportableTower]:
    from exporters.families.from_run import only_model
    from exporters.families.pointnet.load import load_pointnet
    from exporters.families.pointnet.tower import PointNetTower

    return [PointNetTower(load_pointnet(request.source, only_model(models).checkpoint), request.options)]


FAMILY = Family(sources=(PointNetSource,), unpublished=_UNPUBLISHED, load=_load, load_run=_load_run)
