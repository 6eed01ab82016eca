"""Random weights that behave like trained ones numerically: activations neither vanish nor explode."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.efficientnet import MBConv
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.transforms._presets import ImageClassification

from exporters.samples.photos import load_photos
from exporters.weights.parsing import taking_images

# Share of a residual branch in its sum. With the initial 1, fifty blocks amplify float32 rounding a hundredfold.
# Measured on EfficientNet-B7 against float64: the error is up to 3e-3 of the distance between photos, and 5e-6 with
# 0.2. Training starts with a small share for the same reason: Goyal et al. 2017, section 5.1,
# https://arxiv.org/abs/1706.02677, and torchvision's `zero_init_residual`.
_RESIDUAL_GAMMA = 0.2
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def stabilize_activations(model: nn.Module, transforms: ImageClassification) -> None:
    """Scale the residual branches of a random CNN and calibrate its batch norms, in place.

    Args:
        model: A network in evaluation mode that takes the output of ``transforms``.
        transforms: Preprocessing of the network.
    """
    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, _RESIDUAL_GAMMA)
        elif isinstance(module, BasicBlock):
            nn.init.constant_(module.bn2.weight, _RESIDUAL_GAMMA)
        elif isinstance(module, MBConv) and module.use_res_connect:
            projection = module.block[-1]
            nn.init.constant_(projection[1].weight, _RESIDUAL_GAMMA)
    calibrate_on_photos(model, transforms)


def calibrate_on_photos(model: nn.Module, transforms: Callable[[Image.Image], Tensor]) -> None:
    """Scale the residual branches of a random image encoder, and calibrate its batch norms on photos, in place.

    LayerScale multiplies a residual branch by a vector that begins at 1e-4 to 1e-6. Without training, all images would
    get almost the same embedding. Libraries give the vector different names, so it is recognised by its value.

    Source: Touvron et al. 2021, https://arxiv.org/abs/2103.17239, section 2.

    Args:
        model: A network in evaluation mode. It is left in evaluation mode.
        transforms: Preprocessing of the network: a PIL image to ``[3, side, side]`` float32.

    Raises:
        WeightsError: The network does not take images of this size.
    """
    for parameter in model.parameters():
        if parameter.numel() > 1 and 0 < parameter.min() == parameter.max() < _RESIDUAL_GAMMA:
            nn.init.constant_(parameter, _RESIDUAL_GAMMA)
    if any(isinstance(module, _BATCH_NORMS) for module in model.modules()):
        photos = torch.stack([transforms(photo) for photo in load_photos()])
        with taking_images(photos.shape[-1]):
            calibrate_batch_norms(model, photos)


def calibrate_batch_norms(model: nn.Module, inputs: Tensor) -> None:
    """Set the statistics of every batch norm to those of ``inputs``, in place.

    With the initial mean 0 and variance 1, the activations of an untrained EfficientNet shrink to 1e-14.

    Args:
        model: A network in evaluation mode. It is left in evaluation mode.
        inputs: A batch of at least two different inputs.
    """
    norms = [module for module in model.modules() if isinstance(module, _BATCH_NORMS)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average: after one batch, exactly the statistics of this batch
        norm.train()
    with torch.inference_mode():
        model(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
