"""The two towers of a CLIP for immich."""

from __future__ import annotations

import string
from functools import partial
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from exporters.publish.differences import text_differences
from exporters.publish.graph import image_graph, rename_output, save_graph, take_padded_ids
from exporters.publish.json_file import write_json
from exporters.publish.layout import Card, Layout, image_obstacle, prompt_obstacle
from exporters.publish.preprocessor_config import alpha_differences, crop_difference
from exporters.publish.proof import golden_pixel_values, golden_texts, hold, run_graph
from exporters.publish.source import Source
from exporters.publish.tokenizer_files import pad_token, write_tokenizer
from runtime.array_types import Array
from runtime.artifact.variants import VariantName
from runtime.preprocess.tokenizer_file import load_tokenizer

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CANONICAL = (
    "immich removes underscores, and keeps the spaces around what it removes. The model reads an underscore as a "
    "space, and joins words by single spaces."
)
_VISUAL, _TEXTUAL = "visual/model.onnx", "textual/model.onnx"
_USAGE = """\
Copy this folder to `CACHE/clip/NAME` of immich's machine-learning container, where NAME is a CLIP of immich's list
with {dim} dimensions, and choose that model in immich's settings for Smart Search. immich knows no other names.

These files were made by reading immich's code, and held to the golden vectors in the way that it runs them. immich
itself was not run."""


def write(source: Source, folder: Path) -> Card:
    """Write the layout; see :class:`exporters.publish.layout.Layout`."""
    visual = source.choose_one("image")
    textual = source.choose_one("text")
    recipe, side = source.image, source.image.crop_size
    for each in ("visual", "textual"):
        (folder / each).mkdir()
    save_graph(image_graph(source, visual, "image", "embedding"), folder / _VISUAL)
    write_json(
        folder / "visual/preprocess_cfg.json",
        {
            "size": [side, side],
            "mode": "RGB",
            "mean": list(recipe.mean),
            "std": list(recipe.std),
            "interpolation": recipe.interpolation,
            "resize_mode": "squash" if recipe.resize == "squash" else "shortest",
            "fill_color": 0,
        },
    )
    write_tokenizer(source, folder / "textual")
    _write_text_graph(source, textual, folder / _TEXTUAL)
    config = {
        "embed_dim": source.manifest.output_dim,
        "vision_cfg": {"image_size": side},
        "text_cfg": {
            "context_length": source.text.max_length,
            "tokenizer_kwargs": {"clean": "canonicalize" if _canonicalizes(source) else "whitespace"},
        },
    }
    write_json(folder / "config.json", config)
    pixels = golden_pixel_values(source)
    ids = _padded_ids(source, folder / "textual")
    return Card(
        usage=_USAGE.format(dim=source.manifest.output_dim),
        held=[
            hold(source, "image", visual, run_graph(folder / _VISUAL, {"image": pixels})[0], file=_VISUAL),
            hold(source, "text", textual, run_graph(folder / _TEXTUAL, {"text": ids})[0], file=_TEXTUAL),
        ],
        differences=[
            *text_differences(source, "no cleaning", "no prompt", clean=partial(_clean, source)),
            *crop_difference(source, folder / _VISUAL, "image"),
            *alpha_differences(source),
            _CANONICAL if _canonicalizes(source) else "immich joins the words of a text by single spaces.",
        ],
    )


def find_obstacle(source: Source) -> str | None:
    """Return why immich cannot have the artifact, or ``None``."""
    if "text" not in source.manifest.towers:
        return f"it takes texts and images, and the artifact embeds {', '.join(source.manifest.towers)}"
    recipe = source.image if "image" in source.manifest.towers else None
    if recipe is not None and recipe.resize_size != recipe.crop_size:
        return f"it resizes images to the side of the crop, {recipe.crop_size}, and this model to {recipe.resize_size}"
    if source.text.truncation_side == "left":
        return "it keeps the beginning of a text that is too long, and this model the end"
    return prompt_obstacle(source) or image_obstacle(source)


def _write_text_graph(source: Source, variant: VariantName, path: Path) -> None:
    model = source.load_exact_graph("text", variant)
    pad = None if _reads_first_end(source) else source.text.pad_token_id
    take_padded_ids(model, "text", source.text.max_length, pad)
    rename_output(model, "embedding")
    save_graph(model, path)


def _reads_first_end(source: Source) -> bool:
    """Return whether the graph is causal and reads its vector from the first end token, which may also be padding."""
    recipe = source.text
    tokenizer = load_tokenizer(source.folder / recipe.tokenizer)
    return source.manifest.towers["text"].pooling.method == "eos" or tokenizer.encode("").ids[-1:] == [
        recipe.pad_token_id
    ]


def _padded_ids(source: Source, folder: Path) -> Array:
    """Return the ids of the golden texts as immich makes them."""
    tokenizer, pad = Tokenizer.from_file(str(folder / "tokenizer.json")), pad_token(source)
    length = source.text.max_length
    tokenizer.enable_padding(length=length, pad_token=pad, pad_id=tokenizer.token_to_id(pad))
    tokenizer.enable_truncation(max_length=length)
    texts = [_clean(source, text) for text in golden_texts(source)]
    return np.array([each.ids for each in tokenizer.encode_batch(texts)], np.int32)


def _canonicalizes(source: Source) -> bool:
    return source.text.cleaning == "ftfy_canonicalize"


def _clean(source: Source, text: str) -> str:
    """Clean a text as immich does.

    Source: ``clean_text`` in https://github.com/immich-app/immich/blob/main/machine-learning/immich_ml/models/transforms.py
    """
    text = " ".join(text.split())
    return text.translate(_PUNCTUATION).lower() if _canonicalizes(source) else text


LAYOUT = Layout(name="immich", consumers="immich, for a CLIP", find_obstacle=find_obstacle, write=write)
