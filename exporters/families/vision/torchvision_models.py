"""Any image classifier of torchvision. The embedding is the input of its classification head."""

from __future__ import annotations

import warnings

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models

from exporters.catalogue.names import unknown_model
from exporters.catalogue.spec import TorchvisionModelSource
from exporters.catalogue.weights_ref import ModelFolder, ModelWeights, Pretrained, RandomInit
from exporters.errors import WeightsError
from exporters.families.family import LoadRequest
from exporters.families.tower import ExportableTower
from exporters.families.vision.stated import choose_preprocessing
from exporters.families.vision.tower import ImageModel, ImageModelTower
from exporters.families.vision.transforms import wrap_transforms
from exporters.modules.sharing import copy_sharing_tensors
from exporters.weights.parsing import taking_images
from exporters.weights.random_init import calibrate_on_photos
from exporters.weights.state_dict import check_head, head_widths, load_into, read_checkpoint, record_random, seeded
from exporters.weights.torchvision_hub import load_pretrained, published_transforms

_SCALES_AGAIN = "transform_input"  # of Inception and GoogLeNet, whose own weights expect other pixels


def load(request: LoadRequest[TorchvisionModelSource], weights: ModelWeights) -> list[ExportableTower]:
    """Build a classifier of torchvision, load its weights, and return the tower of its embedding.

    Raises:
        UnknownBackboneError: torchvision has no such classifier.
        WeightsError: The weights are not available, or do not fit, or the model has no linear head.
    """
    name, options = request.source.builder, request.options
    classifiers = list_models(module=torchvision.models)
    if name not in classifiers:
        raise unknown_model("torchvision", name, classifiers)
    if isinstance(weights, ModelFolder):
        raise WeightsError(f"{weights.path} is a folder; give the file of a state dict in it")
    published = get_model_weights(name)["DEFAULT"]
    own = published_transforms(published, options.image_size)
    transforms, preprocessing = choose_preprocessing(
        options, lambda: wrap_transforms(own, options.arithmetic, "torchvision")
    )
    model = _build(name, weights.seed if isinstance(weights, RandomInit) else 0, options.image_size)
    head = find_head(model, preprocessing.crop_size)
    if isinstance(weights, RandomInit):
        calibrate_on_photos(model, transforms)
        record = record_random(model, weights.seed)
    elif isinstance(weights, Pretrained):
        if hasattr(model, _SCALES_AGAIN):
            setattr(model, _SCALES_AGAIN, True)
        record = load_pretrained(model, name, head, published)
    else:
        if hasattr(model, _SCALES_AGAIN):
            raise WeightsError(
                f"torchvision's {name} scales the pixels of its own weights once more ({_SCALES_AGAIN}), and a file "
                "does not tell whether its weights expect that; use --weights pretrained"
            )
        checkpoint = read_checkpoint(weights)
        load_into(model, checkpoint.state_dict, ignored=(head,), source=checkpoint.source)
        check_head(model, checkpoint, head_widths(model, head))
        record = checkpoint.record
    image = ImageModel(
        backbone=without_head(model, head),
        embed=lambda pixel_values: input_of(model, head, pixel_values),
        transforms=transforms,
        preprocessing=preprocessing,
        layers=(f"input of torchvision's {head}",),
        library="torchvision",
    )
    return [ImageModelTower(image, record, options, architecture=name)]


def _build(name: str, seed: int, image_size: int | None) -> nn.Module:
    """Build a classifier. Only those with a fixed size take ``image_size``; the others take images of any size."""
    try:
        with seeded(seed), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of other random weights in later versions
            settings = {} if image_size is None else {"image_size": image_size}
            model: nn.Module = get_model(name, weights=None, **settings)
    except TypeError:
        return _build(name, seed, None)
    except AssertionError as exc:  # of an image_size that the patches do not divide
        raise WeightsError(f"torchvision cannot build {name} for images of {image_size} pixels ({exc})") from exc
    return model.eval()


def find_head(model: nn.Module, side: int) -> str:
    """Return the name of the classification head: the linear layer whose output is the model's output.

    Raises:
        WeightsError: There is none.
    """
    reached: list[tuple[str, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: reached.append((name, output)))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with taking_images(side), torch.inference_mode():
            logits = model(torch.zeros(1, 3, side, side))
    finally:
        for hook in hooks:
            hook.remove()
    if not reached or not isinstance(logits, Tensor) or reached[-1][1] is not logits:
        raise WeightsError(
            f"{type(model).__name__} has no linear classification head, so its embedding is not defined; use the same "
            "architecture of timm"
        )
    return reached[-1][0]


def without_head(model: nn.Module, head: str) -> nn.Module:
    """Return a copy of a classifier that returns the input of its head. It shares the tensors."""
    backbone = copy_sharing_tensors(model)
    backbone.set_submodule(head, nn.Identity(), strict=True)
    return backbone


def input_of(model: nn.Module, submodule: str, pixel_values: Tensor) -> Tensor:
    """Return the input of a submodule of the unmodified model, for a head ``[batch, output_dim]``."""
    captured: list[Tensor] = []
    hook = model.get_submodule(submodule).register_forward_pre_hook(lambda _, arguments: captured.append(arguments[0]))
    try:
        model(pixel_values)
    finally:
        hook.remove()
    return captured[0]
