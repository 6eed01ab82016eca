"""PointNet++ with weights from a state dict or random ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from exporters.catalogue.spec import PointNetSource
from exporters.catalogue.weights_ref import ModelWeights, Pretrained, RandomInit
from exporters.errors import WeightsUnavailableError
from exporters.families.family import LoadRequest
from exporters.families.from_run import only_model
from exporters.families.pointnet.network import PointNetEmbedding
from exporters.families.pointnet.tower import PointNet, PointNetTower, normalize_cloud
from exporters.families.tower import ExportableTower
from exporters.samples.point_clouds import load_shapes
from exporters.weights.finetuner_run import RunModel
from exporters.weights.random_init import calibrate_batch_norms
from exporters.weights.state_dict import Checkpoint, load_into, read_checkpoint, record_random, seeded

# Layers of the original classifier. Finetuner's checkpoints hold them, but its embeddings never passed through them.
_IGNORED = tuple(f"_point_encoder.{name}" for name in ("fc1", "bn1", "fc2", "bn2"))


def load(request: LoadRequest[PointNetSource], weights: ModelWeights | Checkpoint) -> list[ExportableTower]:
    """Build the network, load its weights, and return its tower.

    Raises:
        WeightsUnavailableError: The file does not exist, or published weights are asked for: there are none.
        WeightsError: The state dict is damaged, or does not fit.
    """
    if isinstance(weights, Pretrained):
        raise WeightsUnavailableError(
            "there are no pretrained weights of PointNet++: the service that published them is gone; use --weights "
            "PATH with the artifact of your own Finetuner run or a state dict, or --weights random"
        )
    num_points = request.source.num_points
    seed = weights.seed if isinstance(weights, RandomInit) else 0
    with seeded(seed):
        model = PointNetEmbedding().eval()
    if isinstance(weights, RandomInit):
        calibrate_batch_norms(model, torch.stack([normalize_cloud(shape[:num_points]) for shape in load_shapes()]))
        record = record_random(model, seed)
    else:
        checkpoint = read_checkpoint(weights)
        load_into(model, checkpoint.state_dict, ignored=_IGNORED, source=checkpoint.source)
        record = checkpoint.record
    return [PointNetTower(PointNet(model=model, num_points=num_points, weights=record), request.options)]


def load_run(request: LoadRequest[PointNetSource], models: Sequence[RunModel]) -> list[ExportableTower]:
    """Return the tower of a Finetuner run."""
    return load(request, only_model(models).checkpoint)
