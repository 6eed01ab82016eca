"""Image encoders of transformers, from folders that it saved."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForImageClassification

from exporters.errors import WeightsError
from exporters.families.family import FolderRequest
from exporters.families.tower import ExportableTower
from exporters.families.vision.processor import read_processor
from exporters.families.vision.stated import choose_preprocessing
from exporters.families.vision.tower import ImageModel, ImageModelTower
from exporters.modules.sharing import copy_sharing_tensors
from exporters.weights.model_folder import build_model, load_reported, read_config
from exporters.weights.parsing import summarize_error
from exporters.weights.random_init import calibrate_on_photos
from exporters.weights.remote_code import refuse_code
from exporters.weights.state_dict import complete_record, is_part_of
from runtime.artifact.manifest import Pooling

_POOLER = ("pooler",)
_HEADS = ("classifier", "distillation_classifier", "cls_classifier", "head")
_EAGER = ("swin", "swinv2", "donut-swin")  # torch cannot trace their masks for fused attention


def load_folder(request: FolderRequest) -> list[ExportableTower]:
    """Load an image encoder of transformers, and return its tower.

    Raises:
        WeightsError: transformers cannot load the folder, or the model gives no vector of an image.
    """
    folder, options = request.path, request.options
    refuse_code(folder)
    config: Any = read_config(folder)
    transforms, preprocessing = choose_preprocessing(
        options, lambda: read_processor(folder, options.arithmetic, options.image_size)
    )
    model, pooling, layer = _load(request, config)
    weights = request.weights
    if weights.seed is not None:
        calibrate_on_photos(model, transforms)
        weights = complete_record(weights, model)
    image = ImageModel(
        backbone=_traceable(model, config.model_type),
        embed=model,
        transforms=transforms,
        preprocessing=preprocessing,
        pooling=pooling,
        layers=(layer,),
        library="transformers",
    )
    return [ImageModelTower(image, weights, options, architecture=config.model_type)]


class ImageEncoder(nn.Module):
    """A model of transformers, and the choice of a vector from its outputs."""

    def __init__(self, model: nn.Module, choose: Callable[[Any], Tensor], *, interpolate: bool = False) -> None:
        """Keep both. ``interpolate`` fits position embeddings to images of another size than in training."""
        super().__init__()
        self.model = model
        self.choose = choose
        self.settings = {"interpolate_pos_encoding": True} if interpolate else {}

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return one vector for each image: ``[batch, 3, height, width]`` float32 to ``[batch, output_dim]``."""
        return self.choose(self.model(pixel_values=pixel_values, **self.settings)).flatten(1)


def _load(request: FolderRequest, config: Any) -> tuple[nn.Module, Pooling, str]:
    """Return the encoder, its pooling, and the pooling in words.

    The vector is the projection if the architecture has one. Else it is the model's own pooled output, unless its
    weights are missing. Else it is the class token, or else the input of the classification head.
    """
    name = next(iter(config.architectures or ()), "")
    if name.endswith("WithProjection") and hasattr(transformers, name):
        model, _ = _build(request, getattr(transformers, name), config)
        return ImageEncoder(model, lambda output: output.image_embeds), Pooling(method="model"), "image_embeds"
    model, missing = _build(request, AutoModel, config)
    side = _side(config)
    with torch.inference_mode():
        output = _call(model, torch.zeros(1, 3, side, side), request)
    fits = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    interpolate = fits and request.options.image_size not in (None, side)
    pools = not any(is_part_of(key, (*_POOLER, *_HEADS)) for key in missing)  # a SigLIP pools by its ``head``
    if pools and getattr(output, "pooler_output", None) is not None:
        encoder = ImageEncoder(model, lambda output: output.pooler_output, interpolate=interpolate)
        return encoder, Pooling(method="model"), "pooler_output"
    is_sequence = output.last_hidden_state.ndim == 3  # that of a CvT is a map, without its class token
    if is_sequence and any(key.rpartition(".")[2] == "cls_token" for key, _ in model.named_parameters()):
        encoder = ImageEncoder(model, lambda output: output.last_hidden_state[:, 0], interpolate=interpolate)
        return encoder, Pooling(method="cls"), "last_hidden_state[:, 0]"
    try:
        classifier, _ = _build(request, AutoModelForImageClassification, config)
    except WeightsError as exc:
        if pools:
            raise
        raise WeightsError(
            f"{request.path} has no weights for {min(missing)}, by which the model pools, and it has no other vector; "
            "save the model with them"
        ) from exc
    return HeadInput(classifier, _find_head(classifier)), Pooling(method="model"), "input of the classification head"


class HeadInput(nn.Module):
    """A classifier of transformers without its head, whose input it returns."""

    def __init__(self, model: nn.Module, head: str) -> None:
        """Take the head off."""
        super().__init__()
        model.set_submodule(head, nn.Identity(), strict=True)
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the head's input: ``[batch, 3, height, width]`` float32 to ``[batch, output_dim]``."""
        vector: Tensor = self.model(pixel_values=pixel_values).logits
        return vector


def _find_head(model: Any) -> str:
    heads = [name for name, module in model.named_children() if name in _HEADS and isinstance(module, nn.Linear)]
    if len(heads) != 1:
        raise WeightsError(
            f"{type(model).__name__} has neither a pooled output, nor a class token, nor one linear head, so its "
            "embedding is not defined"
        )
    return str(heads[0])


def _build(request: FolderRequest, loader: Any, config: Any) -> tuple[Any, frozenset[str]]:
    """Return a model, with random weights if they are asked for, and the names of the weights that may be missing."""
    if request.weights.seed is None:
        return load_reported(loader, request.path, ignored=(*_POOLER, *_HEADS))
    return build_model(loader, request.path, config, request.weights.seed), frozenset()


def _call(model: Any, pixel_values: Tensor, request: FolderRequest) -> Any:
    try:
        return model(pixel_values=pixel_values)
    except Exception as exc:
        raise WeightsError(
            f"{request.path} is not an image encoder of transformers that takes pixel_values ({summarize_error(exc)})"
        ) from exc


def _side(config: Any) -> int:
    of_timm = getattr(config, "pretrained_cfg", None) or {}
    size = getattr(config, "image_size", None) or of_timm.get("input_size", 224)
    return int(size if isinstance(size, int) else max(size))


def _traceable(model: nn.Module, model_type: str) -> nn.Module:
    traced = copy_sharing_tensors(model)
    if model_type in _EAGER:
        encoder: Any = traced.model
        encoder.set_attn_implementation("eager")
    return traced
