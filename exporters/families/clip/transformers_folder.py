"""Models of texts and images, such as CLIP and SigLIP, from folders that transformers saved: both towers, or one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from PIL import Image
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedTokenizerFast

from exporters.errors import WeightsError
from exporters.families.clip.text import TextModel
from exporters.families.clip.tower import build_towers
from exporters.families.family import FolderRequest
from exporters.families.text_tower import count_positions, find_limit
from exporters.families.tower import ExportableTower
from exporters.families.vision.processor import read_processor
from exporters.families.vision.stated import choose_preprocessing
from exporters.families.vision.tower import ImageModel
from exporters.weights.model_folder import build_model, load_reported, read_config, read_tokenizer
from exporters.weights.random_init import calibrate_on_photos
from exporters.weights.remote_code import refuse_code
from exporters.weights.state_dict import complete_record
from runtime.artifact.manifest import ImagePreprocessing, TextInput, TextPreprocessing
from runtime.errors import MissingDependencyError

IGNORED = ("logit_scale", "logit_bias", "position_ids")
# Models that were trained on texts of a fixed length, padding included, without a mask.
FIXED_LENGTH = ("siglip", "siglip2", "siglip_text_model")


def load_folder(request: FolderRequest) -> list[ExportableTower]:
    """Load a model of texts and images, and return its towers.

    Raises:
        WeightsError: transformers cannot load the folder, or the runtime cannot prepare its texts or images.
        MissingDependencyError: Its tokenizer is a model of SentencePiece, and sentencepiece is not installed.
    """
    folder, options = request.path, request.options
    refuse_code(folder)
    model = load_model(request)

    def image() -> ImageModel:
        half = image_model(model, *choose_preprocessing(options, lambda: read_processor(folder, options.arithmetic)))
        if request.weights.seed is not None:
            calibrate_on_photos(cast(nn.Module, model), half.transforms)
        return half

    return build_towers(
        options,
        text=lambda: text_model(model, _read_tokenizer(folder, model.config.text_config.vocab_size)),
        image=image,
        weights=lambda: complete_record(request.weights, model),
        architecture=str(model.config.model_type),
    )


def load_model(request: FolderRequest) -> Any:
    """Return a model with text and image features, or one with random weights of the same configuration.

    Raises:
        WeightsError: transformers cannot load it, or it has no such features.
    """
    config: Any = read_config(request.path)
    if request.weights.seed is None:
        model, _ = load_reported(AutoModel, request.path, ignored=IGNORED)
    else:
        model = build_model(AutoModel, request.path, config, request.weights.seed)
    if not (hasattr(model, "get_text_features") and hasattr(model, "get_image_features")):
        raise WeightsError(
            f"{request.path} is a {config.model_type}, which gives no embeddings of texts and images; expected a model "
            "like CLIP or SigLIP"
        )
    return model


class TextHalf(nn.Module):
    """The text half of a model. It holds no weights of the image half."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        """Share the model's parts for texts. ``names`` are those of its inputs."""
        super().__init__()
        self.model = take_half(model, "vision_model", "visual_projection")
        self.names = tuple(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return features: ``[batch, sequence]`` int64 each to ``[batch, output_dim]``."""
        return _features(self.model.get_text_features(**dict(zip(self.names, inputs, strict=True))))


class ImageHalf(nn.Module):
    """The image half of a model. It holds no weights of the text half."""

    def __init__(self, model: Any) -> None:
        """Share the model's parts for images."""
        super().__init__()
        self.model = take_half(model, "text_model", "text_projection")

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return features: ``[batch, 3, height, width]`` float32 to ``[batch, output_dim]``."""
        return _features(self.model.get_image_features(pixel_values=pixel_values))


def _read_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    try:
        return read_tokenizer(folder, vocab_size)
    except (WeightsError, MissingDependencyError) as exc:
        raise type(exc)(f"{exc}; or export the image tower alone by --tower image") from exc


def text_model(
    model: Any, tokenizer: PreTrainedTokenizerFast, embed: Callable[[str], Tensor] | None = None
) -> TextModel:
    """Return the text half of a model.

    Args:
        model: A model of transformers with text features.
        tokenizer: Its tokenizer.
        embed: The reference, if it is not the model itself: a text to ``[output_dim]``.
    """
    fixed = model.config.model_type in FIXED_LENGTH
    names: tuple[TextInput, ...] = ("input_ids",) if fixed else ("input_ids", "attention_mask")
    encoder = TextHalf(model, names)
    limit = find_limit(tokenizer.model_max_length, count_positions(encoder))

    def tokenize(text: str) -> Mapping[str, Tensor]:
        padding = "max_length" if fixed else False
        # A tokenizer may leave the mask out by its model_input_names.
        encoded = tokenizer(
            text, truncation=True, max_length=limit, padding=padding, return_attention_mask=True, return_tensors="pt"
        )
        return {name: encoded[name] for name in names}

    return TextModel(
        encoder=encoder,
        embed=embed or (lambda text: _features(model.get_text_features(**tokenize(text)))[0]),
        tokenize=tokenize,
        tokenizer=tokenizer.backend_tokenizer,
        preprocessing=TextPreprocessing(
            max_length=limit,
            pad_token_id=tokenizer.pad_token_id or 0,
            padding="max_length" if fixed else "longest",
            inputs=names,
        ),
        layers=(f"{type(model).__name__}.get_text_features",),
        library="transformers",
    )


def image_model(
    model: Any, transforms: Callable[[Image.Image], Tensor], preprocessing: ImagePreprocessing
) -> ImageModel:
    """Return the image half of a model of transformers, with its image processor as ``read_processor`` returns it."""
    return ImageModel(
        backbone=ImageHalf(model),
        embed=lambda pixel_values: _features(model.get_image_features(pixel_values=pixel_values)),
        transforms=transforms,
        preprocessing=preprocessing,
        layers=(f"{type(model).__name__}.get_image_features",),
        library="transformers",
    )


def _features(output: Any) -> Tensor:
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features


def take_half(model: Any, *others: str) -> Any:
    """Return a model that shares all parts of ``model`` but the ``others``."""
    half = copy.copy(model)
    half._modules = {name: module for name, module in model._modules.items() if name not in others}  # noqa: SLF001
    return half
