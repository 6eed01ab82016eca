"""PointNet++ with weights from a state dict or random ones."""

from __future__ import annotations

from typing import assert_never

import torch

from exporters.catalogue.spec import PointNetSource
from exporters.catalogue.weights_ref import ModelFolder, RandomInit, StateDict
from exporters.families.pointnet.network import PointNetEmbedding
from exporters.families.pointnet.tower import PointNet, normalize_cloud
from exporters.samples.point_clouds import load_shapes
from exporters.weights.random_init import calibrate_batch_norms
from exporters.weights.state_dict import Checkpoint, load_into, read_checkpoint, record_random

# Layers of the original classifier. Finetuner's checkpoints hold them, but its embeddings never passed through them.
_IGNORED = tuple(f"_point_encoder.{name}" for name in ("fc1", "bn1", "fc2", "bn2"))


def load_pointnet(source: PointNetSource, weights: RandomInit | StateDict | ModelFolder | Checkpoint) -> PointNet:
    """Build the network and load its weights.

    Args:
        source: The network.
        weights: The weights; a :class:`Checkpoint` is a state dict that is already in memory.

    Raises:
        WeightsUnavailableError: The file does not exist.
        WeightsError: The state dict is damaged, or does not fit.
    """
    match weights:
        case RandomInit(seed):
            model = _build(seed)
            clouds = [normalize_cloud(shape[: source.num_points]) for shape in load_shapes()]
            calibrate_batch_norms(model, torch.stack(clouds))
            return PointNet(model=model, num_points=source.num_points, weights=record_random(model, seed))
        case StateDict(path) | ModelFolder(path):
            return load_pointnet(source, read_checkpoint(path))
        case Checkpoint(state_dict=state_dict):
            model = _build(seed=0)
            load_into(model, state_dict, ignored=_IGNORED, source=weights.source)
            return PointNet(model=model, num_points=source.num_points, weights=weights.record)
        case _:
            assert_never(weights)


def _build(seed: int) -> PointNetEmbedding:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PointNetEmbedding().eval()
