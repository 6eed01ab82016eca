"""Any CLIP of open_clip, by name or from a folder that open_clip saved: both towers, or one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from torch import Tensor, nn
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from exporters.catalogue.names import unknown_model
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import OpenClipModelSource
from exporters.catalogue.weights_ref import ModelFolder, ModelWeights, Pretrained, RandomInit
from exporters.errors import WeightsError, WeightsUnavailableError
from exporters.families.clip.text import TextModel
from exporters.families.clip.tower import build_towers
from exporters.families.clip.transformers_folder import take_half
from exporters.families.family import FolderRequest, LoadRequest
from exporters.families.tower import ExportableTower
from exporters.families.vision.pixels import Preparation
from exporters.families.vision.stated import choose_preprocessing
from exporters.families.vision.tower import ImageModel
from exporters.families.vision.transforms import building_transforms, wrap_transforms
from exporters.modules.attention import unpack_attention
from exporters.weights.load_watch import quiet_logging
from exporters.weights.parsing import summarize_error
from exporters.weights.random_init import calibrate_on_photos
from exporters.weights.state_dict import load_into, read_checkpoint, record_random, seeded
from runtime.artifact.manifest import TextPreprocessing, Weights
from runtime.artifact.reader import record_file

IGNORED = ("logit_scale", "logit_bias", "text.transformer.embeddings.position_ids")  # not exported, or older counters
_IMAGE_ALONE = "export its image tower alone by --tower image"
# A capital sigma at the end of a word, which becomes ς in Python's lower(), and not in Lowercase.
# Source: Final_Sigma in table 3-17 of the Unicode standard, with at most one case-ignorable character before it.
_CASED, _IGNORABLE = r"[\p{Lu}\p{Ll}\p{Lt}]", r"[\p{Mn}\p{Me}\p{Cf}\p{Lm}\p{Sk}'.:\x{B7}\x{2018}\x{2019}]"
_FINAL_SIGMA = Regex(f"(?<={_CASED}|{_CASED}{_IGNORABLE})Σ(?!{_IGNORABLE}*{_CASED})")
# The words of open_clip's SimpleTokenizer. Those of CLIPTokenizer also have <|startoftext|> and <|endoftext|>.
_WORDS = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")


def load(request: LoadRequest[OpenClipModelSource], weights: ModelWeights) -> list[ExportableTower]:
    """Build a CLIP of open_clip, load its weights, and return its towers.

    Raises:
        UnknownBackboneError: open_clip has no such model.
        WeightsError: The weights are not available, or do not fit, or the runtime cannot be its tokenizer.
    """
    source, options = request.source, request.options
    name = source.model_name
    if name not in open_clip.list_models():
        raise unknown_model("open_clip", name, open_clip.list_models())
    if isinstance(weights, ModelFolder):
        raise WeightsError(f"{weights.path} is a folder; name it instead of open_clip:{name}, or give the file in it")
    settings = _read_tag(source, required=isinstance(weights, Pretrained))
    if isinstance(weights, Pretrained):
        _, record = download_weights(name, str(source.tag))
        model = _create(name, options, pretrained=source.tag)
        return _towers(model, name, record, options)
    seed = weights.seed if isinstance(weights, RandomInit) else 0
    model = _create(name, options, seed=seed, preprocessing=settings)
    if isinstance(weights, RandomInit):
        return _towers(model, name, weights, options)
    checkpoint = read_checkpoint(weights)
    load_into(model, checkpoint.state_dict, ignored=IGNORED, source=checkpoint.source)
    return _towers(model, name, checkpoint.record, options)


def load_folder(request: FolderRequest) -> list[ExportableTower]:
    """Load a folder that open_clip saved, and return its towers.

    Raises:
        WeightsError: The folder does not fit open_clip, or the runtime cannot be its tokenizer.
    """
    name, options, seed = f"local-dir:{request.path}", request.options, request.weights.seed
    if seed is not None:
        return _towers(_create(name, options, seed=seed), name, RandomInit(seed), options)
    return _towers(_create(name, options, load_weights=True), name, request.weights, options)


def _create(
    name: str,
    options: ExportOptions,
    *,
    seed: int = 0,
    pretrained: str | None = None,
    load_weights: bool = False,
    preprocessing: Mapping[str, Any] | None = None,
) -> Any:
    """Build a model. open_clip itself checks that weights fit, and takes what it knows from ``preprocessing``.

    Raises:
        WeightsError: open_clip cannot load it.
    """
    loads = load_weights or pretrained is not None
    try:
        with seeded(seed), quiet_logging():
            return open_clip.create_model(
                name,
                pretrained=pretrained,
                load_weights=loads,
                require_pretrained=loads,  # without weights that it knows, it would keep random ones, and only warn
                pretrained_text=False,
                force_image_size=options.image_size,
                force_preprocess_cfg=preprocessing,
            ).eval()
    except Exception as exc:  # open_clip, the hub's client and torch raise many types
        raise WeightsError(f"open_clip cannot load {name} ({summarize_error(exc)})") from exc


def _read_tag(source: OpenClipModelSource, *, required: bool) -> Mapping[str, Any]:
    """Return open_clip's settings of the weights with a tag, such as their preprocessing; empty without a tag.

    Raises:
        WeightsUnavailableError: open_clip has no such tag, or there is none and it is ``required``.
        WeightsError: The weights were trained with another activation than the model has.
    """
    name, tag = source.model_name, source.tag
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags and (required or tag):
        raise WeightsUnavailableError(
            f"open_clip has no weights {tag or 'without a tag'} of {name}; its tags are {', '.join(tags) or 'none'}: "
            f"open_clip:{name}/TAG, or use --weights random or --weights FILE"
        )
    settings: Mapping[str, Any] = get_pretrained_cfg(name, tag) if tag else {}
    own, theirs = (bool(each.get("quick_gelu")) for each in (open_clip.get_model_config(name), settings))
    if tag and own != theirs:  # open_clip only warns, and the vectors are wrong
        repository = str(settings.get("hf_hub") or "the repository of the weights").rstrip("/")
        other = f"open_clip:{name}-quickgelu/{tag}" if theirs else repository
        raise WeightsError(f"open_clip states another activation for the weights {tag} than for {name}; use {other}")
    return settings


def download_weights(name: str, tag: str, licence: str | None = None) -> tuple[Path, Weights]:
    """Return the file of published weights, which may be downloaded, and its record.

    Raises:
        WeightsUnavailableError: The download fails.
    """
    try:
        path = Path(download_pretrained(get_pretrained_cfg(name, tag)))
    except Exception as exc:  # the hub's client raises a dozen types, open_clip wraps some of them
        raise WeightsUnavailableError(
            f"cannot download open_clip's {name}, {tag} ({summarize_error(exc)}); use --weights PATH with a checkpoint "
            "of it, or --weights random"
        ) from exc
    sha256 = record_file(path).sha256
    return path, Weights(
        origin="pretrained",
        description=f"open_clip {name}",
        revision=tag,
        file=path.name,
        sha256=sha256,
        licence=licence,
    )


def _towers(model: Any, name: str, weights: Weights | RandomInit, options: ExportOptions) -> list[ExportableTower]:
    def read_own() -> Preparation:
        settings = model.visual.preprocess_cfg
        with building_transforms("open_clip", settings):
            own = image_transform_v2(PreprocessCfg(**settings), is_train=False)
        return wrap_transforms(own, options.arithmetic, "open_clip")

    def image() -> ImageModel:
        transforms, preprocessing = choose_preprocessing(options, read_own)
        if isinstance(weights, RandomInit):
            calibrate_on_photos(model.visual, transforms)
        return ImageModel(
            backbone=First(unpack_attention(model.visual)),
            embed=lambda pixel_values: model.encode_image(pixel_values, normalize=False),
            transforms=transforms,
            preprocessing=preprocessing,
            layers=("open_clip encode_image",),
            normalized=True,
            library="open_clip",
        )

    return build_towers(
        options,
        text=lambda: _text_model(model, name),
        image=image,
        weights=lambda: record_random(model, weights.seed) if isinstance(weights, RandomInit) else weights,
        architecture="open_clip" if name.startswith("local-dir:") else name,
    )


class First(nn.Module):
    """The first output of a module: the encoders of CoCa also return their tokens."""

    def __init__(self, module: nn.Module) -> None:
        """Keep the module."""
        super().__init__()
        self.module = module

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return features: ``[batch, 3, height, width]`` float32 to ``[batch, output_dim]``."""
        output = self.module(pixel_values)
        features: Tensor = output[0] if isinstance(output, tuple) else output
        return features


class OpenClipTextFeatures(nn.Module):
    """The text half of a CLIP. It holds no weights of the image half."""

    def __init__(self, model: Any) -> None:
        """Share all parts of the model but those that are not for texts."""
        super().__init__()
        half = take_half(model, "visual", "text_decoder")
        # CoCa's masks have one row for each head, which SelfAttention does not take.
        has_own_masks = getattr(getattr(model, "text", None), "cls_emb", None) is not None
        self.model = half if has_own_masks else unpack_attention(half)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return features: ``[batch, context_length]`` int64 to ``[batch, output_dim]``."""
        features: Tensor = self.model.encode_text(input_ids, normalize=False)
        return features


def _text_model(model: Any, name: str) -> TextModel:
    try:
        tokenizer: Any = open_clip.get_tokenizer(name)
    except Exception as exc:  # the hub's client raises many types
        raise WeightsUnavailableError(
            f"the tokenizer of {name} cannot be loaded ({summarize_error(exc)}); {_IMAGE_ALONE}"
        ) from exc
    backend, pad_token_id = _convert(tokenizer, name)
    length = tokenizer.context_length
    return TextModel(
        encoder=OpenClipTextFeatures(model),
        embed=lambda text: model.encode_text(tokenizer(text), normalize=False)[0],
        tokenize=lambda text: {"input_ids": tokenizer(text)},
        tokenizer=backend,
        preprocessing=TextPreprocessing(
            cleaning="ftfy_canonicalize" if tokenizer.clean_fn.__name__ == "_clean_canonicalize" else "ftfy",
            max_length=length,
            pad_token_id=pad_token_id,
            padding="max_length",
            inputs=("input_ids",),
        ),
        layers=("open_clip encode_text",),
        normalized=True,
        library="open_clip",
    )


def _convert(tokenizer: Any, name: str) -> tuple[Tokenizer, int]:
    """Return a tokenizer of open_clip for the runtime, and its padding.

    Raises:
        WeightsError: The runtime cannot be this tokenizer.
    """
    if isinstance(tokenizer, SimpleTokenizer) and tokenizer.reduction_fn is None:
        # open_clip finds these tokens in the lowercase text.
        start, end = (
            AddedToken(tokenizer.decoder[token], normalized=True, special=True)
            for token in (tokenizer.sot_token_id, tokenizer.eot_token_id)
        )
        build: Any = CLIPTokenizer  # its annotations know no AddedToken
        fast = build(
            vocab=tokenizer.encoder,
            merges=list(tokenizer.bpe_ranks),
            unk_token=end,
            bos_token=start,
            eos_token=end,
            pad_token=end,
        )
        split = pre_tokenizers.Split(_WORDS, behavior="removed", invert=True)
        fast.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        # open_clip ignores case in its pattern, which then matches this mark nowhere.
        return _add_steps(fast.backend_tokenizer, tokenizer, normalizers.Replace("\u0345", " ")), 0
    if isinstance(tokenizer, HFTokenizer) and isinstance(tokenizer.tokenizer, PreTrainedTokenizerFast):
        return _add_steps(tokenizer.tokenizer.backend_tokenizer, tokenizer), int(tokenizer.tokenizer.pad_token_id or 0)
    raise WeightsError(f"the runtime cannot be the {type(tokenizer).__name__} of {name}; {_IMAGE_ALONE}")


def _add_steps(backend: Tokenizer, tokenizer: Any, *steps: normalizers.Normalizer) -> Tokenizer:
    """Put steps before the normalizer, after the lowercase of open_clip's cleaning if there is one.

    Other programs read the file, too, so it lowercases by itself. Punctuation is removed before the tokenizer, because
    ``tokenizers`` takes special tokens such as ``</s>`` out of a text before it normalizes.
    """
    lower = [normalizers.Replace(_FINAL_SIGMA, "ς"), normalizers.Lowercase()]
    added = [*(lower if tokenizer.clean_fn.__name__ == "_clean_lower" else []), *steps]
    if added:
        own = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([*added, *own])
    return backend
