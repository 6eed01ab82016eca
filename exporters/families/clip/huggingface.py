"""CLIP models of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from exporters.catalogue.spec import ClipSource
from exporters.catalogue.weights_ref import ModelWeights, RandomInit, StateDict, refuse_tokenizer
from exporters.errors import WeightsError, WeightsMismatchError
from exporters.families.clip.tower import Clip, ClipImage, ClipText, linear
from exporters.families.transformer.huggingface import max_length, read_config, read_tokenizer
from exporters.weights.hub import download_tokenizer, find_model
from exporters.weights.model_folder import check_library, load_with_transformers
from exporters.weights.parsing import parsing, summarize_error
from exporters.weights.stand_in_tokenizer import build_stand_in_clip_tokenizer
from exporters.weights.state_dict import Checkpoint, load_into, read_checkpoint, record_random, seeded
from runtime.artifact.manifest import Arithmetic, ImagePreprocessing, Pooling, TextPreprocessing, Weights

_IGNORED = ("logit_scale", "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
_BICUBIC, _BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR


def load_clip(
    source: ClipSource,
    weights: ModelWeights | Checkpoint,
    *,
    arithmetic: Arithmetic = "graph",
    tokenizer: Path | None = None,
    ignored: tuple[str, ...] = (),
) -> Clip:
    """Build a CLIP of transformers and load its weights. The files of a model folder decide its configuration.

    Args:
        source: The model.
        weights: The weights; a :class:`Checkpoint` is a state dict that is already in memory.
        arithmetic: Whether the image graph normalises pixels, or its caller.
        tokenizer: Folder of the tokenizer of a state dict; by default the tokenizer of ``source`` on the hub.
        ignored: Parts that a state dict may lack.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or the file does not exist.
        WeightsError: The weights are not those of a CLIP, or do not fit.
    """
    if isinstance(weights, StateDict | Checkpoint):
        checkpoint = read_checkpoint(weights)
        folder = tokenizer or download_tokenizer(source.model_id, source.revision)
        model = _build(source, seed=0)
        load_into(model, checkpoint.state_dict, ignored=(*_IGNORED, *ignored), source=checkpoint.source)
        found = read_tokenizer(folder, _text_config(model).vocab_size)
        return _assemble(model, found, _default_processor(source), checkpoint.record, arithmetic)
    refuse_tokenizer(tokenizer)
    if isinstance(weights, RandomInit):
        model = _build(source, weights.seed)
        text = _text_config(model)
        stand_in = build_stand_in_clip_tokenizer(
            text.max_position_embeddings, bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id
        )
        record = record_random(model, weights.seed)
        return _assemble(model, stand_in, _default_processor(source), record, arithmetic)
    folder, record = find_model(source, weights)
    check_library(folder)
    config = read_config(folder)
    if not isinstance(config, CLIPConfig):
        raise WeightsMismatchError(f"{folder} is a {config.model_type}, expected a clip")
    model = load_with_transformers(CLIPModel, folder, ignored=_IGNORED)
    found = read_tokenizer(folder, _text_config(model).vocab_size)
    return _assemble(model, found, _read_processor(folder), record, arithmetic)


def _build(source: ClipSource, seed: int) -> CLIPModel:
    config = CLIPConfig(
        text_config=dict(source.text_config),
        vision_config=dict(source.vision_config),
        projection_dim=source.projection_dim,
    )
    with seeded(seed):
        model: CLIPModel = CLIPModel(config)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _text_config(model: CLIPModel) -> Any:
    return model.config.text_config


def _assemble(
    model: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    processor: CLIPImageProcessorPil,
    weights: Weights,
    arithmetic: Arithmetic,
) -> Clip:
    config: Any = model.config
    text, vision = config.text_config, config.vision_config
    limit = max_length(text, tokenizer)

    def embed_text(text: str) -> Tensor:
        encoded = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
        features: Tensor = model.get_text_features(**encoded).pooler_output[0]
        return features

    return Clip(
        text=ClipText(
            encoder=ClipTextModel(model),
            embed=embed_text,
            tokenizer=tokenizer,
            preprocessing=TextPreprocessing(max_length=limit, pad_token_id=tokenizer.pad_token_id or 0),
            pooling=Pooling(method="eos"),
            projections=(linear(text.hidden_size, config.projection_dim),),
        ),
        image=ClipImage(
            backbone=ClipImageModel(model),
            embed=lambda pixel_values: model.get_image_features(pixel_values).pooler_output,
            transforms=lambda photo: processor(photo, return_tensors="pt")["pixel_values"][0],
            preprocessing=_preprocessing(processor, vision.image_size, arithmetic),
            projection=linear(vision.hidden_size, config.projection_dim),
        ),
        output_dim=config.projection_dim,
        normalized=False,
        weights=weights,
    )


class ClipTextModel(nn.Module):
    """The text model with its projection. It holds no weights of the image model, so neither does its graph."""

    def __init__(self, model: CLIPModel) -> None:
        """Keep the text model and its projection."""
        super().__init__()
        self.text_model = model.text_model
        self.text_projection = model.text_projection

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return features: ids and mask ``[batch, sequence]`` int64 to ``[batch, output_dim]``."""
        pooled = self.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        features: Tensor = self.text_projection(pooled)
        return features


class ClipImageModel(nn.Module):
    """The image model with its projection."""

    def __init__(self, model: CLIPModel) -> None:
        """Keep the image model and its projection."""
        super().__init__()
        self.vision_model = model.vision_model
        self.visual_projection = model.visual_projection

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return features: ``[batch, 3, height, width]`` float32 to ``[batch, output_dim]``."""
        features: Tensor = self.visual_projection(self.vision_model(pixel_values=pixel_values).pooler_output)
        return features


def _default_processor(source: ClipSource) -> CLIPImageProcessorPil:
    vision: Any = CLIPVisionConfig(**source.vision_config)  # type: ignore[arg-type]
    side = vision.image_size
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def _read_processor(folder: Path) -> CLIPImageProcessorPil:
    try:
        return CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as exc:  # transformers raises many types for a damaged or unknown folder
        raise WeightsError(
            f"{folder} holds no image processor ({summarize_error(exc)}); save one there with "
            "processor.save_pretrained (preprocessor_config.json)"
        ) from exc


@parsing("the image processor")
def _preprocessing(processor: CLIPImageProcessorPil, side: int, arithmetic: Arithmetic) -> ImagePreprocessing:
    """Return the runtime's preprocessing that equals ``processor``.

    Raises:
        WeightsError: The runtime has no equal, or the crop differs from the model's ``side``.
    """
    size, crop = dict(processor.size), processor.crop_size
    steps = ("do_convert_rgb", "do_resize", "do_center_crop", "do_rescale", "do_normalize")
    left_out = [step for step in steps if not getattr(processor, step)]
    if left_out or not crop["height"] == crop["width"] == side or abs(processor.rescale_factor * 255 - 1) > 1e-6:
        raise WeightsError(
            f"the image processor crops to {crop}, rescales by {processor.rescale_factor} and leaves out "
            f"{left_out or 'nothing'}; expected a crop to {side}, rescaling by 1/255, and all steps"
        )
    if size.keys() != {"shortest_edge"} or processor.resample not in (_BICUBIC, _BILINEAR):
        raise WeightsError(
            f"the image processor resizes to {size} by filter {processor.resample}; expected shortest_edge alone, and "
            "bicubic or bilinear"
        )
    red, green, blue = map(float, processor.image_mean)
    red_std, green_std, blue_std = map(float, processor.image_std)
    return ImagePreprocessing(
        resize_size=size["shortest_edge"],
        interpolation="bicubic" if processor.resample == _BICUBIC else "bilinear",
        crop_size=side,
        crop_rounding="floor",
        mean=(red, green, blue),
        std=(red_std, green_std, blue_std),
        arithmetic=arithmetic,
    )
