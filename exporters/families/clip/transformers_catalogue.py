"""The CLIPs of the catalogue that transformers builds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import ClipSource
from exporters.catalogue.weights_ref import ModelWeights, RandomInit, StateDict, refuse_tokenizer
from exporters.errors import WeightsMismatchError
from exporters.families.clip.tower import build_towers, linear
from exporters.families.clip.transformers_folder import image_model, text_model
from exporters.families.tower import ExportableTower
from exporters.families.vision.pixels import Preparation
from exporters.families.vision.processor import read_processor, wrap_processor
from exporters.families.vision.stated import choose_preprocessing
from exporters.weights.hub import download_tokenizer, find_model
from exporters.weights.model_folder import check_library, load_reported, read_config, read_tokenizer
from exporters.weights.stand_in_tokenizer import build_stand_in_clip_tokenizer
from exporters.weights.state_dict import Checkpoint, load_into, read_checkpoint, record_random, seeded
from runtime.artifact.manifest import Arithmetic, Pooling, Weights

_IGNORED = ("logit_scale", "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")


def load_clip(
    source: ClipSource,
    weights: ModelWeights | Checkpoint,
    options: ExportOptions,
    *,
    ignored: tuple[str, ...] = (),
) -> list[ExportableTower]:
    """Build a CLIP of transformers, load its weights, and return the towers that ``options`` select.

    The files of a model folder decide its configuration. A state dict takes the tokenizer of ``source`` on the hub, if
    ``options`` give none.

    Args:
        source: The model.
        weights: The weights; a :class:`Checkpoint` is a state dict that is already in memory.
        options: Options of the export; ``weights`` is not used.
        ignored: Parts whose weights may be missing, because they are not exported.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or the file does not exist.
        WeightsError: The weights are not those of a CLIP, or do not fit.
    """
    if isinstance(weights, StateDict | Checkpoint):
        checkpoint = read_checkpoint(weights)
        model = _build(source, seed=0)
        load_into(model, checkpoint.state_dict, ignored=(*_IGNORED, *ignored), source=checkpoint.source)
        return _towers(
            model,
            checkpoint.record,
            options,
            tokenizer=lambda: read_tokenizer(
                options.tokenizer_folder or download_tokenizer(source.model_id, source.revision),
                _text_config(model).vocab_size,
            ),
            processor=lambda: _default_processor(source, options.arithmetic),
        )
    refuse_tokenizer(options.tokenizer_folder)
    if isinstance(weights, RandomInit):
        model = _build(source, weights.seed)
        return _towers(
            model,
            record_random(model, weights.seed),
            options,
            tokenizer=lambda: _stand_in_tokenizer(model),
            processor=lambda: _default_processor(source, options.arithmetic),
        )
    folder, record = find_model(source, weights)
    check_library(folder)
    config = read_config(folder)
    if not isinstance(config, CLIPConfig):
        raise WeightsMismatchError(f"{folder} is a {config.model_type}, expected a clip")
    model = load_reported(CLIPModel, folder, ignored=(*_IGNORED, *ignored))[0]
    return _towers(
        model,
        record,
        options,
        tokenizer=lambda: read_tokenizer(folder, _text_config(model).vocab_size),
        processor=lambda: read_processor(folder, options.arithmetic),
    )


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


def _towers(
    model: CLIPModel,
    weights: Weights,
    options: ExportOptions,
    *,
    tokenizer: Callable[[], PreTrainedTokenizerFast],
    processor: Callable[[], Preparation],
) -> list[ExportableTower]:
    config: Any = model.config
    return build_towers(
        options,
        text=lambda: replace(
            text_model(model, tokenizer()),
            pooling=Pooling(method="eos"),
            projections=(linear(config.text_config.hidden_size, config.projection_dim),),
            layers=(),
            library="torch",
        ),
        image=lambda: replace(
            image_model(model, *choose_preprocessing(options, processor)),
            pooling=Pooling(method="cls"),
            projections=(linear(config.vision_config.hidden_size, config.projection_dim),),
            layers=(),
            library="torch",
        ),
        weights=lambda: weights,
    )


def _stand_in_tokenizer(model: CLIPModel) -> PreTrainedTokenizerFast:
    text = _text_config(model)
    return build_stand_in_clip_tokenizer(
        text.max_position_embeddings, bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id
    )


def _default_processor(source: ClipSource, arithmetic: Arithmetic) -> Preparation:
    vision: Any = CLIPVisionConfig(**source.vision_config)  # type: ignore[arg-type]
    side = vision.image_size
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return wrap_processor(processor, arithmetic)
