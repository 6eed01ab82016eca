"""CLIP models of open_clip, with a text model of transformers."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig

from exporters.catalogue.spec import OpenClipSource
from exporters.catalogue.weights_ref import (
    ModelFolder,
    ModelWeights,
    Pretrained,
    RandomInit,
    StateDict,
    refuse_tokenizer,
)
from exporters.errors import WeightsError, WeightsUnavailableError
from exporters.families.clip.tower import Clip, ClipImage, ClipText, linear
from exporters.families.transformer.huggingface import read_tokenizer
from exporters.modules.attention import unpack_attention
from exporters.weights.hub import download_tokenizer
from exporters.weights.parsing import summarize_error
from exporters.weights.stand_in_tokenizer import build_stand_in_tokenizer
from exporters.weights.state_dict import Checkpoint, load_into, read_checkpoint, record_random, seeded
from runtime.artifact.manifest import Arithmetic, ImagePreprocessing, Pooling, TextPreprocessing, Weights

_IGNORED = ("logit_scale", "logit_bias", "text.transformer.embeddings.position_ids")
_CONTEXT_LENGTH = 77  # open_clip's DEFAULT_CONTEXT_LENGTH, to which its tokenizers cut and pad


def load_open_clip(
    source: OpenClipSource,
    weights: ModelWeights | Checkpoint,
    *,
    arithmetic: Arithmetic = "graph",
    tokenizer: Path | None = None,
    ignored: tuple[str, ...] = (),
) -> Clip:
    """Build a CLIP of open_clip and load its weights. See :func:`exporters.families.clip.huggingface.load_clip`."""
    if isinstance(weights, RandomInit):
        refuse_tokenizer(tokenizer)
        model = build_open_clip(source, weights.seed)
        stand_in = build_stand_in_tokenizer("xlm-roberta", _CONTEXT_LENGTH)
        return _assemble(model, stand_in, record_random(model, weights.seed), arithmetic)
    checkpoint = _read(source, weights)
    model = build_open_clip(source, seed=0)
    load_into(model, checkpoint.state_dict, ignored=(*_IGNORED, *ignored), source=checkpoint.source)
    folder = tokenizer or download_tokenizer(source.tokenizer_id, source.tokenizer_revision)
    return _assemble(model, read_tokenizer(folder, model.text.vocab_size), checkpoint.record, arithmetic)


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
    checkpoint = read_checkpoint(StateDict(_download(source)))
    record = replace(
        checkpoint.record,
        origin="pretrained",
        description=f"open_clip {source.model_name}",
        revision=source.tag,
        licence=source.licence,
    )
    return replace(checkpoint, record=record)


def _download(source: OpenClipSource) -> Path:
    try:
        return Path(download_pretrained(get_pretrained_cfg(source.model_name, source.tag)))
    except Exception as exc:  # the hub's client raises a dozen types, open_clip wraps some of them
        raise WeightsUnavailableError(
            f"cannot download open_clip's {source.model_name}, {source.tag} ({summarize_error(exc)}); use --weights "
            "PATH with a checkpoint of it, or --weights random"
        ) from exc


def _assemble(
    model: open_clip.CustomTextCLIP, tokenizer: PreTrainedTokenizerFast, weights: Weights, arithmetic: Arithmetic
) -> Clip:
    transforms = image_transform_v2(PreprocessCfg(size=model.visual.image_size), is_train=False)
    first, _, last = model.text.proj
    dim = last.out_features
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        tokenize = open_clip.tokenizer.HFTokenizer(folder, context_length=_CONTEXT_LENGTH)
    return Clip(
        text=ClipText(
            encoder=OpenClipText(model.text),
            embed=lambda text: model.encode_text(tokenize(text))[0],
            tokenizer=tokenizer,
            preprocessing=TextPreprocessing(
                cleaning="ftfy", max_length=_CONTEXT_LENGTH, pad_token_id=model.text.config.pad_token_id
            ),
            pooling=Pooling(method="mean"),
            projections=(linear(first.in_features, first.out_features, "gelu"), linear(last.in_features, dim)),
        ),
        image=ClipImage(
            backbone=unpack_attention(model.visual),
            embed=model.encode_image,
            transforms=transforms,
            preprocessing=_preprocessing(transforms, arithmetic),
            projection=linear(*model.visual.proj.shape),
        ),
        output_dim=dim,
        normalized=True,
        weights=weights,
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


def _preprocessing(transforms: Compose, arithmetic: Arithmetic) -> ImagePreprocessing:
    """Return the runtime's preprocessing that equals open_clip's ``transforms``."""
    steps = {type(step): step for step in transforms.transforms}
    try:
        resize, crop, normalize = steps[Resize], steps[CenterCrop], steps[Normalize]
    except KeyError as exc:
        raise WeightsError(f"open_clip has the transforms {transforms}, expected resize, crop and normalize") from exc
    red, green, blue = normalize.mean
    red_std, green_std, blue_std = normalize.std
    return ImagePreprocessing(
        resize_size=resize.size,
        interpolation=resize.interpolation.value,
        crop_size=crop.size[0],
        mean=(red, green, blue),
        std=(red_std, green_std, blue_std),
        arithmetic=arithmetic,
    )
