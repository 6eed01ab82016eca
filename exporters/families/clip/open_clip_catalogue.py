"""The CLIP of the catalogue that open_clip builds, with a text model of transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import OpenClipSource
from exporters.catalogue.weights_ref import (
    ModelFolder,
    ModelWeights,
    Pretrained,
    RandomInit,
    StateDict,
    refuse_tokenizer,
)
from exporters.errors import WeightsError
from exporters.families.clip.open_clip_any import IGNORED, download_weights
from exporters.families.clip.text import TextModel
from exporters.families.clip.tower import build_towers, linear
from exporters.families.tower import ExportableTower
from exporters.families.vision.pixels import Preparation
from exporters.families.vision.stated import choose_preprocessing
from exporters.families.vision.tower import ImageModel
from exporters.families.vision.transforms import wrap_transforms
from exporters.modules.attention import unpack_attention
from exporters.weights.hub import download_tokenizer
from exporters.weights.model_folder import read_tokenizer
from exporters.weights.stand_in_tokenizer import build_stand_in_tokenizer
from exporters.weights.state_dict import Checkpoint, load_into, read_checkpoint, read_state_dict, record_random, seeded
from runtime.artifact.manifest import Pooling, TextPreprocessing, Weights

_CONTEXT_LENGTH = 77  # open_clip's DEFAULT_CONTEXT_LENGTH, to which its tokenizers cut and pad


def load_open_clip(
    source: OpenClipSource,
    weights: ModelWeights | Checkpoint,
    options: ExportOptions,
    *,
    ignored: tuple[str, ...] = (),
) -> list[ExportableTower]:
    """Build a CLIP of open_clip, and return its towers, as ``load_clip`` of ``transformers_catalogue`` does."""
    if isinstance(weights, RandomInit):
        refuse_tokenizer(options.tokenizer_folder)
        model = build_open_clip(source, weights.seed)
        record = record_random(model, weights.seed)
        return _towers(model, record, options, lambda: build_stand_in_tokenizer("xlm-roberta", _CONTEXT_LENGTH))
    checkpoint = _read(source, weights)
    model = build_open_clip(source, seed=0)
    load_into(model, checkpoint.state_dict, ignored=(*IGNORED, *ignored), source=checkpoint.source)

    def tokenizer() -> PreTrainedTokenizerFast:
        folder = options.tokenizer_folder or download_tokenizer(source.tokenizer_id, source.tokenizer_revision)
        return read_tokenizer(folder, model.text.vocab_size)

    return _towers(model, checkpoint.record, options, tokenizer)


def build_open_clip(source: OpenClipSource, seed: int) -> open_clip.CustomTextCLIP:
    """Build the model with random weights. The configuration of its text model is not taken from the hub."""
    config: dict[str, Any] = open_clip.get_model_config(source.model_name)
    with tempfile.TemporaryDirectory() as folder, seeded(seed):
        text: Any = XLMRobertaConfig
        text(**source.text_config).save_pretrained(folder)
        text_config = config["text_cfg"] | {"hf_model_name": folder, "hf_model_pretrained": False}
        model = open_clip.CustomTextCLIP(**config | {"text_cfg": text_config})
    return model.eval()


def _read(source: OpenClipSource, weights: Pretrained | StateDict | ModelFolder | Checkpoint) -> Checkpoint:
    if isinstance(weights, ModelFolder):
        raise WeightsError(
            f"{weights.path} is a folder; give the checkpoint in it, such as open_clip_pytorch_model.bin"
        )
    if not isinstance(weights, Pretrained):
        return read_checkpoint(weights)
    path, record = download_weights(source.model_name, source.tag, source.licence)
    return Checkpoint(state_dict=read_state_dict(path), source=str(path), record=record)


def _towers(
    model: open_clip.CustomTextCLIP,
    weights: Weights,
    options: ExportOptions,
    tokenizer: Callable[[], PreTrainedTokenizerFast],
) -> list[ExportableTower]:
    def read_own() -> Preparation:
        own = image_transform_v2(PreprocessCfg(size=model.visual.image_size), is_train=False)
        return wrap_transforms(own, options.arithmetic, "open_clip")

    def image() -> ImageModel:
        transforms, preprocessing = choose_preprocessing(options, read_own)
        return ImageModel(
            backbone=unpack_attention(model.visual),
            embed=model.encode_image,
            transforms=transforms,
            preprocessing=preprocessing,
            pooling=Pooling(method="cls"),
            projections=(linear(*model.visual.proj.shape),),
            normalized=True,
            library="torch",
        )

    return build_towers(options, text=lambda: _text_model(model, tokenizer()), image=image, weights=lambda: weights)


def _text_model(model: open_clip.CustomTextCLIP, tokenizer: PreTrainedTokenizerFast) -> TextModel:
    first, _, last = model.text.proj
    pad_token_id = model.text.config.pad_token_id
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        tokenize = open_clip.tokenizer.HFTokenizer(folder, context_length=_CONTEXT_LENGTH)

    def tokenize_without_padding(text: str) -> Mapping[str, Tensor]:
        ids = tokenize(text)
        ids = ids[:, : int((ids[0] != pad_token_id).nonzero().max()) + 1]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return TextModel(
        encoder=OpenClipText(model.text),
        embed=lambda text: model.encode_text(tokenize(text))[0],
        tokenize=tokenize_without_padding,
        tokenizer=tokenizer.backend_tokenizer,
        preprocessing=TextPreprocessing(cleaning="ftfy", max_length=_CONTEXT_LENGTH, pad_token_id=pad_token_id),
        pooling=Pooling(method="mean"),
        projections=(
            linear(first.in_features, first.out_features, "gelu"),
            linear(last.in_features, last.out_features),
        ),
        normalized=True,
        library="torch",
    )


class OpenClipText(nn.Module):
    """The text model of an open_clip CLIP, with the mask as an input.

    open_clip treats every token with the id of the padding as padding, wherever it came from. So does this module.
    """

    def __init__(self, text: Any) -> None:
        """Keep the text model."""
        super().__init__()
        self.text = text

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return features: ids and mask ``[batch, sequence]`` int64 to ``[batch, output_dim]``."""
        mask = attention_mask * (input_ids != self.text.config.pad_token_id)
        features: Tensor = self.text.proj(self.text.pooler(self.text.transformer(input_ids, mask), mask))
        return features
