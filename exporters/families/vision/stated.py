"""Preprocessing that the user states, for a bare state dict or instead of the library's own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from exporters.catalogue.options import ExportOptions
from exporters.families.vision.pixels import check_pixels
from exporters.families.vision.processor import read_processor
from exporters.families.vision.transforms import read_transforms
from exporters.weights.parsing import parsing, read_json
from runtime.artifact.manifest import Arithmetic, ImagePreprocessing
from runtime.errors import UsageError

Transforms = Callable[[Image.Image], Tensor]
_OURS = {field.name for field in fields(ImagePreprocessing)} - {"kind", "arithmetic"}


def state_preprocessing(
    options: ExportOptions, transforms: Transforms, own: ImagePreprocessing
) -> tuple[Transforms, ImagePreprocessing]:
    """Return transforms for the reference, and the runtime's equal: those of ``options``, else the model's ``own``.

    A file of timm or transformers is read by its library. For other settings, the transforms are those of torchvision.

    Raises:
        UsageError: The settings contradict each other.
        WeightsError: The file has no known form, or the runtime has no equal.
    """
    if not options.stated_preprocessing:
        return transforms, own
    if options.preprocessing is None:
        stated, record = _build(own, _read_options(options), options.arithmetic)
    else:
        stated, record = _read_file(Path(options.preprocessing), options.arithmetic, own)
    check_pixels(stated, record, "torchvision")
    return stated, record


def _read_options(options: ExportOptions) -> dict[str, Any]:
    changes: dict[str, Any] = {
        "resize_size": None if options.resize is None else int(options.resize.partition(",")[0]),
        "resize": options.resize and ("squash" if "," in options.resize else "short_side"),
        "crop_size": options.crop,
        "interpolation": options.interpolation,
        "mean": options.mean,
        "std": options.std,
        "antialias": options.antialias,
    }
    return {name: value for name, value in changes.items() if value is not None}


def _read_file(path: Path, arithmetic: Arithmetic, own: ImagePreprocessing) -> tuple[Transforms, ImagePreprocessing]:
    content = read_json(path)
    with parsing(path):
        content = content.get("pretrained_cfg") or content.get("image_processor") or content
        if "input_size" in content or "crop_pct" in content:
            data: Any = import_module("timm.data")  # slow to import
            composed = data.create_transform(**data.resolve_data_config({}, pretrained_cfg=content), is_training=False)
            return composed, read_transforms(composed, arithmetic)
    if "image_processor_type" in content or "image_mean" in content or "do_resize" in content:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "preprocessor_config.json").write_text(json.dumps(content), "utf-8")
            return read_processor(Path(folder), arithmetic)
    with parsing(path):
        unknown = sorted(content.keys() - _OURS)
        if unknown:
            raise UsageError(f"{path} has the settings {', '.join(unknown)}, known are {', '.join(sorted(_OURS))}")
        listed = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
        return _build(own, listed, arithmetic)


def _build(
    own: ImagePreprocessing, changes: dict[str, Any], arithmetic: Arithmetic
) -> tuple[Transforms, ImagePreprocessing]:
    """Return torchvision's transforms for ``own`` with ``changes``, and the same for the runtime."""
    floats = changes.get("antialias", own.antialias) is False or changes.get("resize_dtype", "uint8") == "float32"
    if floats:
        changes |= {"resize_dtype": "float32"}
    else:
        changes |= {"resize_dtype": "uint8", "antialias": True}
    record = replace(own, **{"crop_rounding": "half_even", "arithmetic": "caller" if floats else arithmetic} | changes)
    if record.resize == "long_side" or record.crop_rounding != "half_even" or any(record.fill):
        raise UsageError(
            "stated preprocessing is judged by torchvision, which has no resize long_side, no crop_rounding floor and "
            "no fill; leave them out, or give the pretrained_cfg of timm that has them"
        )
    side = record.resize_size
    resize = Resize(
        (side, side) if record.resize == "squash" else side,
        interpolation=InterpolationMode(record.interpolation),
        antialias=record.antialias,
    )
    crop, normalize = CenterCrop(record.crop_size), Normalize(record.mean, record.std)
    steps = [ToTensor(), resize, crop, normalize] if floats else [resize, crop, ToTensor(), normalize]
    return Compose(steps), record
