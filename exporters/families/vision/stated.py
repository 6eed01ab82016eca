"""Preprocessing that the user states, for a bare state dict or instead of the library's own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor
from torchvision.transforms.functional import crop, get_dimensions

from exporters.catalogue.options import ExportOptions
from exporters.errors import WeightsError
from exporters.families.vision.pixels import STATE_ALL, Preparation, check_pixels
from exporters.families.vision.processor import read_processor
from exporters.families.vision.transforms import wrap_transforms
from exporters.weights.parsing import parsing, read_json
from runtime.artifact.manifest import Arithmetic, ImagePreprocessing
from runtime.errors import UsageError

_OURS = {field.name for field in fields(ImagePreprocessing)} - {"kind", "arithmetic"}
_REQUIRED = {field.name for field in fields(ImagePreprocessing) if field.default is MISSING} & _OURS


def choose_preprocessing(options: ExportOptions, read_own: Callable[[], Preparation]) -> Preparation:
    """Return transforms for the reference, and the runtime's equal: those of ``options``, else the model's own.

    A file of timm or transformers is read by its library. For other settings, the transforms are those of torchvision.

    Args:
        options: Options of the export.
        read_own: Reads the model's own preprocessing. It may fail if ``options`` state all settings.

    Raises:
        UsageError: The settings contradict each other.
        WeightsError: The file has no known form, settings are missing, or the runtime has no equal.
    """
    if not options.stated_preprocessing:
        return read_own()
    if options.preprocessing is None:
        return _build(read_own, _read_options(options), options.arithmetic)
    return _read_file(Path(options.preprocessing), options.arithmetic, read_own)


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


def _read_file(path: Path, arithmetic: Arithmetic, read_own: Callable[[], Preparation]) -> Preparation:
    content = read_json(path)
    with parsing(path):
        content = content.get("pretrained_cfg") or content.get("image_processor") or content
        if "input_size" in content or "crop_pct" in content:
            data: Any = import_module("timm.data")  # slow to import
            composed = data.create_transform(**data.resolve_data_config({}, pretrained_cfg=content), is_training=False)
            return wrap_transforms(composed, arithmetic, "timm")
    if "image_processor_type" in content or "image_mean" in content or "do_resize" in content:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "preprocessor_config.json").write_text(json.dumps(content), "utf-8")
            return read_processor(Path(folder), arithmetic)
    with parsing(path):
        unknown = sorted(content.keys() - _OURS)
        if unknown:
            raise UsageError(f"{path} has the settings {', '.join(unknown)}, known are {', '.join(sorted(_OURS))}")
        listed = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
        return _build(read_own, listed, arithmetic)


def _build(read_own: Callable[[], Preparation], changes: dict[str, Any], arithmetic: Arithmetic) -> Preparation:
    """Return torchvision's transforms for the model's own settings with ``changes``, and the runtime's equal."""
    record = _complete(read_own, changes, arithmetic)
    if record.resize == "long_side" or any(record.fill):
        raise UsageError(
            "stated preprocessing is judged by torchvision, which has no resize long_side and no fill; state other "
            "settings for them, or give a pretrained_cfg of timm with its crop_mode border by --preprocessing"
        )
    side, floats = record.resize_size, record.resize_dtype == "float32"
    resize = Resize(
        (side, side) if record.resize == "squash" else side,
        interpolation=InterpolationMode(record.interpolation),
        antialias=record.antialias,
    )
    floor = record.crop_rounding == "floor"
    centre = partial(_crop_as_transformers, side=record.crop_size) if floor else CenterCrop(record.crop_size)
    normalize = Normalize(record.mean, record.std)
    stated = Compose([ToTensor(), resize, centre, normalize] if floats else [resize, centre, ToTensor(), normalize])
    check_pixels(stated, record, "torchvision")
    return stated, record


def _complete(
    read_own: Callable[[], Preparation], changes: dict[str, Any], arithmetic: Arithmetic
) -> ImagePreprocessing:
    """Return the model's own settings with ``changes``, or ``changes`` alone if its own cannot be used."""
    settings: dict[str, Any] = {}
    try:
        _, own = read_own()
        settings = {name: getattr(own, name) for name in _OURS}
    except WeightsError as exc:
        if missing := sorted(_REQUIRED - changes.keys()):
            raise WeightsError(
                f"the model's own preprocessing cannot be used, and the stated one lacks {', '.join(missing)}; "
                f"{STATE_ALL}"
            ) from exc
    if changes.get("antialias") is False:
        settings["resize_dtype"] = "float32"  # Pillow always widens its filters
    elif changes.get("interpolation") not in (None, "bilinear", "bicubic"):
        settings |= {"resize_dtype": "uint8", "antialias": True}  # only Pillow has the other filters
    settings |= changes
    floats = settings.get("resize_dtype") == "float32"
    return ImagePreprocessing(**settings, arithmetic="caller" if floats else arithmetic)


def _crop_as_transformers(image: Any, side: int) -> Any:
    """Cut out the centre of a PIL image or of a tensor; half a pixel of offset is rounded down."""
    _, height, width = get_dimensions(image)
    return crop(image, (height - side) // 2, (width - side) // 2, side, side)
