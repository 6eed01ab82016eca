"""PointNet++: from a state dict, or random. Its published weights were lost with Finetuner's service."""

from __future__ import annotations

from pathlib import Path

import torch

from exporters.catalogue.spec import PointNetSource, random_seed
from exporters.families.pointnet.network import PointNetEmbedding
from exporters.families.pointnet.tower import PointNet, normalize_cloud
from exporters.samples.point_clouds import load_shapes
from exporters.weights.random_init import calibrate_batch_norms
from exporters.weights.state_dict import Checkpoint, load_into, random_record, read_checkpoint

# Layers of the original classifier that Finetuner's checkpoints hold and its embeddings never passed.
_UNUSED = tuple(f"_point_encoder.{name}" for name in ("fc1", "bn1", "fc2", "bn2"))


def load_pointnet(source: PointNetSource, weights: str | Checkpoint) -> PointNet:
    """Builds the network and fills it.

    Args:
        source: The number of points that are sampled from a mesh.
        weights: ``random``, ``random:SEED``, the path of a state dict, or one that has been read.

    Raises:
        WeightsUnavailableError: There is no such file.
        WeightsError: The state dict is damaged, or does not fit.
    """
    seed = random_seed(weights) if isinstance(weights, str) else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        model = PointNetEmbedding().eval()
    if seed is not None:
        clouds = [normalize_cloud(shape[: source.num_points]) for shape in load_shapes()]
        calibrate_batch_norms(model, torch.stack(clouds))
        return PointNet(model=model, num_points=source.num_points, weights=random_record(model, seed))
    checkpoint = weights if isinstance(weights, Checkpoint) else read_checkpoint(Path(weights))
    load_into(model, checkpoint.state_dict, unused=_UNUSED, source=checkpoint.source)
    return PointNet(model=model, num_points=source.num_points, weights=checkpoint.record)
