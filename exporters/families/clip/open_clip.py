"""CLIPs that open_clip builds, with a text half of transformers: its own weights, a checkpoint of it, or random."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig

from exporters.catalogue.spec import OpenClipSource, random_seed
from exporters.errors import WeightsError, WeightsUnavailableError
from exporters.families.clip.tower import Clip, ClipImage, ClipText
from exporters.families.transformer.huggingface import read_tokenizer
from exporters.modules.attention import unpack_attention
from exporters.weights.model_folder import check_tokenizer_is_needed, download_tokenizer, first_line
from exporters.weights.stand_in_tokenizer import random_tokenizer
from exporters.weights.state_dict import Checkpoint, load_into, random_record, read_checkpoint
from runtime.artifact.manifest import Arithmetic, ImagePreprocessing, Pooling, Projection, TextPreprocessing, Weights
from runtime.artifact.reader import record_file

_UNUSED = ("logit_scale", "logit_bias", "text.transformer.embeddings.position_ids")
_CONTEXT_LENGTH = 77  # open_clip's DEFAULT_CONTEXT_LENGTH, to which its tokenizers cut and pad


def load_open_clip(
    source: OpenClipSource,
    weights: str | Checkpoint,
    *,
    arithmetic: Arithmetic = "graph",
    tokenizer: Path | None = None,
    unused: tuple[str, ...] = (),
) -> Clip:
    """Builds a CLIP of open_clip and fills it.

    Args:
        source: Which one.
        weights: ``pretrained``, ``random``, ``random:SEED``, the file of an open_clip checkpoint, or one that has been
            read.
        arithmetic: Whether pixels are normalised in the image graph or by its caller.
        tokenizer: The folder that holds the tokenizer; by default that of ``source`` on the hub.
        unused: Parts that a checkpoint may lack.

    Raises:
        WeightsUnavailableError: The hub cannot be reached, or there is no such file.
        WeightsError: They do not fit.
    """
    seed = random_seed(weights) if isinstance(weights, str) else None
    if seed is not None:
        check_tokenizer_is_needed(tokenizer, str(weights))
    model = build_open_clip(source, seed or 0)
    if seed is not None:
        words = random_tokenizer("xlm-roberta", _CONTEXT_LENGTH)
        return _assemble(model, words, random_record(model, seed), arithmetic)
    checkpoint = weights if isinstance(weights, Checkpoint) else _read(source, weights)
    load_into(model, checkpoint.state_dict, unused=(*_UNUSED, *unused), source=checkpoint.source)
    folder = tokenizer or download_tokenizer(source.tokenizer_id, source.tokenizer_revision)
    return _assemble(model, read_tokenizer(folder, model.text.vocab_size), checkpoint.record, arithmetic)


def build_open_clip(source: OpenClipSource, seed: int) -> open_clip.CustomTextCLIP:
    """Builds the model with random weights, without asking the hub for the configuration of its text half."""
    config: dict[str, Any] = open_clip.get_model_config(source.model_name)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        text: Any = XLMRobertaConfig
        text(**source.text_config).save_pretrained(folder)
        text_config = config["text_cfg"] | {"hf_model_name": folder, "hf_model_pretrained": False}
        torch.manual_seed(seed)
        model = open_clip.CustomTextCLIP(**config | {"text_cfg": text_config})
    return model.eval()


def _read(source: OpenClipSource, weights: str) -> Checkpoint:
    if Path(weights).is_dir():
        raise WeightsError(f"{weights} is a folder; name the checkpoint in it, such as open_clip_pytorch_model.bin")
    if weights != "pretrained":
        return read_checkpoint(Path(weights))
    path = _download(source)
    checkpoint = read_checkpoint(path)
    return Checkpoint(
        state_dict=checkpoint.state_dict,
        source=str(path),
        record=Weights(
            origin="pretrained",
            description=f"open_clip {source.model_name}",
            revision=source.tag,
            file=path.name,
            sha256=record_file(path).sha256,
            licence=source.licence,
        ),
    )


def _download(source: OpenClipSource) -> Path:
    try:
        return Path(download_pretrained(get_pretrained_cfg(source.model_name, source.tag)))
    except Exception as exc:  # the hub's client raises a dozen types, open_clip wraps some of them
        raise WeightsUnavailableError(
            f"cannot download open_clip's {source.model_name}, {source.tag} ({first_line(exc)}); take --weights PATH "
            "with a checkpoint of it, or --weights random"
        ) from exc


def _assemble(
    model: open_clip.CustomTextCLIP, tokenizer: PreTrainedTokenizerFast, weights: Weights, arithmetic: Arithmetic
) -> Clip:
    transforms = image_transform_v2(PreprocessCfg(size=model.visual.image_size), is_train=False)
    first, _, last = model.text.proj
    dim = last.out_features
    return Clip(
        text=ClipText(
            encoder=_TextFeatures(model.text),
            embed=_embed_text(model, tokenizer),
            tokenizer=tokenizer,
            preprocessing=TextPreprocessing(
                cleaning="ftfy", max_length=_CONTEXT_LENGTH, pad_token_id=model.text.config.pad_token_id
            ),
            pooling=Pooling(method="mean"),
            projections=(_linear(first.in_features, first.out_features, "gelu"), _linear(last.in_features, dim)),
        ),
        image=ClipImage(
            backbone=unpack_attention(model.visual),
            embed=model.encode_image,
            transforms=transforms,
            preprocessing=_preprocessing(transforms, arithmetic),
            pooling=Pooling(method="cls"),
            projections=(_linear(*model.visual.proj.shape),),
        ),
        output_dim=dim,
        normalized=True,
        weights=weights,
    )


def _linear(in_features: int, out_features: int, activation: Literal["identity", "gelu"] = "identity") -> Projection:
    return Projection(in_features=in_features, out_features=out_features, bias=False, activation=activation)


def _embed_text(model: open_clip.CustomTextCLIP, tokenizer: PreTrainedTokenizerFast) -> Callable[[str], Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        theirs = open_clip.tokenizer.HFTokenizer(folder, context_length=_CONTEXT_LENGTH)

    def embed(text: str) -> Tensor:
        features: Tensor = model.encode_text(theirs(text))[0]
        return features

    return embed


class _TextFeatures(nn.Module):
    """open_clip's text half with the mask as an input of its own.

    open_clip takes every token for padding that has the padding's id, wherever it came from, so ours does too.
    """

    def __init__(self, text: Any) -> None:
        super().__init__()
        self.text = text

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask * (input_ids != self.text.config.pad_token_id)
        features: Tensor = self.text.proj(self.text.pooler(self.text.transformer(input_ids, mask), mask))
        return features


def _preprocessing(transforms: Compose, arithmetic: Arithmetic) -> ImagePreprocessing:
    """Returns what the runtime does instead of open_clip's transforms, read from them."""
    steps = {type(step): step for step in transforms.transforms}
    try:
        resize, crop, normalize = steps[Resize], steps[CenterCrop], steps[Normalize]
    except KeyError as exc:
        raise WeightsError(f"open_clip prepares images by {transforms}, which this exporter does not know") from exc
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
