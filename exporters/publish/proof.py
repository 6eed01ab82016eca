"""Open the files of a layout again, and hold their vectors to the golden ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from exporters.errors import PublishError
from exporters.publish.layout import Held
from exporters.publish.source import Source
from runtime.array_types import Array
from runtime.artifact.manifest import TowerName
from runtime.artifact.parity import format_cosine, measure_agreement
from runtime.artifact.variants import VariantName
from runtime.errors import one_line
from runtime.machine.threads import available_threads
from runtime.preprocess.image import ImageItem, load_image, pixel_values, resize_and_crop
from runtime.session.options import session_options
from runtime.session.providers import import_onnxruntime


def run_graph(
    path: Path,
    feeds: Mapping[str, Array],
    *,
    optimization: str = "ORT_ENABLE_ALL",
    config: Mapping[str, str] | None = None,
) -> list[Array]:
    """Run a graph on the CPU with the settings that consumers have: the defaults.

    Args:
        path: The graph.
        feeds: Its inputs by name; those that it does not have are left out.
        optimization: Name of a member of ``onnxruntime.GraphOptimizationLevel``.
        config: Session configuration entries.

    Raises:
        PublishError: onnxruntime cannot load or run it.
    """
    ort = import_onnxruntime()
    options = session_options(threads=available_threads(), optimization=optimization, config=config)
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        outputs: list[Array] = session.run(None, {name: feeds[name] for name in names})
    except Exception as exc:  # onnxruntime's errors have no common class
        raise PublishError(f"onnxruntime cannot run {path.name} ({one_line(exc)})") from exc
    return outputs


def hold(source: Source, tower: TowerName, variant: VariantName, vectors: Array, *, file: str, what: str = "") -> Held:
    """Compare vectors of the golden items with those of the export.

    Raises:
        PublishError: They differ by more than the variant is allowed to.
    """
    agreement, tolerance = measure_agreement(source.golden(tower)[1], vectors), source.tolerance(tower, variant)
    if not agreement.within(tolerance):
        raise PublishError(
            f"{file} does not give the vectors of the export: min cosine {format_cosine(agreement.min_cosine)} (at "
            f"least {format_cosine(tolerance.min_cosine)}), max abs error {agreement.max_abs_error:.2g} (at most "
            f"{tolerance.max_error * agreement.reference_scale:.2g})"
        )
    return Held(file=file, what=what or variant, min_cosine=agreement.min_cosine)


def tokenize(folder: Path, texts: Sequence[str]) -> dict[str, Array]:
    """Tokenize as consumers do, by ``tokenizer.json`` and ``tokenizer_config.json`` in ``folder`` alone."""
    settings: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(settings["model_max_length"], direction=settings["truncation_side"])
    pad = settings["pad_token"]
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad), pad_token=pad)
    return as_inputs(tokenizer, texts)


def as_inputs(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, Array]:
    """Return every input that a text graph may have, ``[texts, tokens]`` int64."""
    encodings = tokenizer.encode_batch(list(texts))
    return {
        "input_ids": np.array([each.ids for each in encodings], np.int64),
        "attention_mask": np.array([each.attention_mask for each in encodings], np.int64),
        "token_type_ids": np.array([each.type_ids for each in encodings], np.int64),
    }


def golden_texts(source: Source) -> list[str]:
    """Return the golden texts after the default prompt, which the export's vectors include."""
    prompt = source.text.default_prompt_text
    return [prompt + text for text in source.golden("text")[0]]


def golden_pixel_values(source: Source) -> Array:
    """Return the golden images as consumers prepare them; see :func:`prepare_pixels`."""
    return prepare_pixels(source, source.golden("image")[0])


def prepare_pixels(source: Source, items: Sequence[ImageItem], **changes: Any) -> Array:
    """Return images resized, cropped and normalised, ``[images, 3, side, side]`` float32.

    Args:
        source: The artifact.
        items: The images.
        changes: Fields of the preprocessing that a consumer has otherwise.
    """
    recipe = replace(source.image, arithmetic="caller", **changes)
    return np.stack([pixel_values(resize_and_crop(load_image(item, recipe.alpha), recipe), recipe) for item in items])
