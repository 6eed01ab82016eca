"""Convolutional networks of torchvision: its architectures, its weights from its own cache, its transforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn
from torchvision.models import get_model, get_model_weights
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from exporters.catalogue.spec import CnnSource
from exporters.catalogue.weights_ref import ModelWeights, Pretrained, RandomInit, StateDict
from exporters.errors import WeightsError, WeightsMismatchError
from exporters.families.cnn.tower import Cnn, CnnTower
from exporters.families.family import LoadRequest
from exporters.families.from_run import only_model
from exporters.families.tower import ExportableTower
from exporters.modules.projection import ProjectionLayer
from exporters.weights.finetuner_run import RunModel
from exporters.weights.projection_head import read_head
from exporters.weights.random_init import stabilize_activations
from exporters.weights.state_dict import (
    Checkpoint,
    check_head,
    head_widths,
    load_into,
    read_checkpoint,
    record_random,
    seeded,
)
from exporters.weights.torchvision_hub import load_pretrained, published_transforms

# The statistics hardly depend on the image size, and EfficientNet-B7's own size takes seven times longer.
_CALIBRATION_SIZE = 224
_PROJECTION = "projection."


def load(request: LoadRequest[CnnSource], weights: ModelWeights) -> list[ExportableTower]:
    """Build a network of torchvision, load its weights, and return its tower."""
    if isinstance(weights, StateDict):
        checkpoint, projections = _split_projections(read_checkpoint(weights))
        cnn = load_cnn(request.source, checkpoint, request.options.image_size)
        cnn = replace(cnn, projections=projections)
    else:
        cnn = load_cnn(request.source, weights, request.options.image_size)
    return [CnnTower(cnn, request.options, output_dim=request.output_dim)]


def _split_projections(checkpoint: Checkpoint) -> tuple[Checkpoint, tuple[ProjectionLayer, ...]]:
    """Split a state dict as :meth:`CnnTower.state_dict` returns it."""
    network = {key: value for key, value in checkpoint.state_dict.items() if not key.startswith(_PROJECTION)}
    others = checkpoint.state_dict.keys() - network.keys()
    layers = {key.removeprefix(_PROJECTION): checkpoint.state_dict[key] for key in others}
    return replace(checkpoint, state_dict=network), read_head(layers, checkpoint.source)


def load_run(request: LoadRequest[CnnSource], models: Sequence[RunModel]) -> list[ExportableTower]:
    """Build a network of torchvision with the weights, pooling, head and preprocessing of a Finetuner run.

    Raises:
        WeightsError: The run does not fit.
    """
    model = only_model(models)
    checkpoint, projections = model.split("embed_model.")
    # Finetuner trained its CNNs on images that were resized to a square without keeping their aspect ratio.
    side = request.options.image_size or model.image_size
    transforms = ImageClassification(crop_size=side, interpolation=InterpolationMode.BICUBIC)
    transforms.resize_size = [side, side]
    cnn = load_cnn(request.source, checkpoint)
    cnn = replace(cnn, transforms=transforms, pooling=model.pooling, projections=projections)
    tower = CnnTower(cnn, request.options, output_dim=request.output_dim)
    if model.output_dim not in (None, tower.output_dim):
        raise WeightsMismatchError(
            f"{model.checkpoint.source} states {model.output_dim} dimensions and has layers for {tower.output_dim}; "
            "download the run's artifact again"
        )
    return [tower]


def load_cnn(source: CnnSource, weights: ModelWeights | Checkpoint, image_size: int | None = None) -> Cnn:
    """Build a network of torchvision and load its weights.

    Args:
        source: The network.
        weights: The weights; a :class:`Checkpoint` is a state dict that is already in memory.
        image_size: Side of the centre crop in pixels; ``None`` for that of the pretrained weights.

    Raises:
        WeightsUnavailableError: The download fails, or the file does not exist.
        WeightsError: The file is damaged, or does not fit.
    """
    pretrained = get_model_weights(source.builder)["DEFAULT"]
    with seeded(weights.seed if isinstance(weights, RandomInit) else 0):
        model: nn.Module = get_model(source.builder, weights=None).eval()
    modules = dict(model.named_modules())
    if missing := [name for name in (source.pool, source.head) if name not in modules]:
        raise WeightsError(
            f"torchvision's {source.builder} has no module {missing[0]}; name its pooling and its head, or use "
            f"torchvision:{source.builder}"
        )
    if isinstance(weights, Pretrained):
        record = load_pretrained(model, source.builder, source.head, pretrained)
    elif isinstance(weights, RandomInit):
        stabilize_activations(model, published_transforms(pretrained, _CALIBRATION_SIZE))
        record = record_random(model, weights.seed)
    else:
        checkpoint = read_checkpoint(weights)
        load_into(model, checkpoint.state_dict, ignored=(source.head,), source=checkpoint.source)
        check_head(model, checkpoint, head_widths(model, source.head))
        record = checkpoint.record
    transforms = published_transforms(pretrained, image_size)
    return Cnn(model=model, pool=source.pool, head=source.head, transforms=transforms, weights=record)
