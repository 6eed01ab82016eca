"""The CLIPs of the catalogue that transformers builds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from exporters.catalogue.spec import ClipSource
from exporters.catalogue.weights_ref import ModelWeights, RandomInit, StateDict, refuse_tokenizer
from exporters.errors import WeightsMismatchError
from exporters.families.clip.tower import Clip, linear
from exporters.families.clip.transformers_folder import image_model, text_model
from exporters.families.vision.processor import Processor, read_processor, wrap_processor
from exporters.weights.hub import download_tokenizer, find_model
from exporters.weights.model_folder import check_library, load_reported, read_config, read_tokenizer
from exporters.weights.stand_in_tokenizer import build_stand_in_clip_tokenizer
from exporters.weights.state_dict import Checkpoint, load_into, read_checkpoint, record_random, seeded
from runtime.artifact.manifest import Arithmetic, Pooling, Weights

_IGNORED = ("logit_scale", "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")


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
        return _assemble(model, found, _default_processor(source, arithmetic), checkpoint.record)
    refuse_tokenizer(tokenizer)
    if isinstance(weights, RandomInit):
        model = _build(source, weights.seed)
        text = _text_config(model)
        stand_in = build_stand_in_clip_tokenizer(
            text.max_position_embeddings, bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id
        )
        record = record_random(model, weights.seed)
        return _assemble(model, stand_in, _default_processor(source, arithmetic), record)
    folder, record = find_model(source, weights)
    check_library(folder)
    config = read_config(folder)
    if not isinstance(config, CLIPConfig):
        raise WeightsMismatchError(f"{folder} is a {config.model_type}, expected a clip")
    model = load_reported(CLIPModel, folder, ignored=_IGNORED)[0]
    found = read_tokenizer(folder, _text_config(model).vocab_size)
    return _assemble(model, found, read_processor(folder, arithmetic), record)


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


def _assemble(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, processor: Processor, weights: Weights) -> Clip:
    config: Any = model.config
    text, image = text_model(model, tokenizer), image_model(model, *processor)
    return Clip(
        text=replace(
            text,
            pooling=Pooling(method="eos"),
            projections=(linear(config.text_config.hidden_size, config.projection_dim),),
            layers=(),
            library="torch",
        ),
        image=replace(
            image,
            pooling=Pooling(method="cls"),
            projections=(linear(config.vision_config.hidden_size, config.projection_dim),),
            layers=(),
            library="torch",
        ),
        weights=weights,
    )


def _default_processor(source: ClipSource, arithmetic: Arithmetic) -> Processor:
    vision: Any = CLIPVisionConfig(**source.vision_config)  # type: ignore[arg-type]
    side = vision.image_size
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return wrap_processor(processor, arithmetic)
