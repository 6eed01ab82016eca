"""Preprocessing that the user states, for a bare state dict or instead of the library's own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, fields
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
from runtime.artifact.json_schema import decode
from runtime.artifact.manifest import Arithmetic, ImagePreprocessing
from runtime.errors import ManifestError, UsageError

_BY_TRANSFORMERS = ("image_processor_type", "feature_extractor_type", "image_mean", "do_resize")
_BY_TIMM = ("input_size", "crop_pct")
_KNOWN = ", ".join(field.name for field in fields(ImagePreprocessing))


def choose_preprocessing(options: ExportOptions, read_own: Callable[[], Preparation]) -> Preparation:
    """Return transforms for the reference, and the runtime's equal: those of ``options``, else the model's own.

    A file of timm or transformers is read by its library. For other settings, the transforms are those of torchvision.

    Args:
        options: Options of the export.
        read_own: Reads the model's own preprocessing. It may fail if ``options`` state all settings.

    Raises:
        UsageError: A setting is unknown or has a wrong value, or the settings contradict each other.
        WeightsError: The file has no known form, settings are missing, or the runtime has no equal.
    """
    if not options.stated_preprocessing:
        return read_own()
    if options.preprocessing is None:
        return _build(read_own, _read_options(options), options.arithmetic, "the stated preprocessing")
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
        content = dict(content.get("pretrained_cfg") or content.get("image_processor") or content)
    if any(name in content for name in _BY_TRANSFORMERS):  # first: some of its classes have a crop_pct, too
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "preprocessor_config.json").write_text(json.dumps(content), "utf-8")
            return read_processor(Path(folder), arithmetic, source=str(path))
    if any(name in content for name in _BY_TIMM):
        with parsing(path):
            data: Any = import_module("timm.data")  # slow to import
            composed = data.create_transform(**data.resolve_data_config({}, pretrained_cfg=content), is_training=False)
            return wrap_transforms(composed, arithmetic, "timm")
    return _build(read_own, content, arithmetic, f"{path}: preprocessing")


def _build(
    read_own: Callable[[], Preparation], changes: dict[str, Any], arithmetic: Arithmetic, where: str
) -> Preparation:
    """Return torchvision's transforms for the model's own settings with ``changes``, and the runtime's equal.

    Error messages call the changes ``where``.
    """
    record = _complete(read_own, changes, arithmetic, where)
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
    read_own: Callable[[], Preparation], changes: dict[str, Any], arithmetic: Arithmetic, where: str
) -> ImagePreprocessing:
    """Return the model's own settings with ``changes``, or ``changes`` alone if its own cannot be used."""
    settings: dict[str, Any] = {}
    unusable = None
    try:
        settings = asdict(read_own()[1])
    except WeightsError as exc:
        unusable = exc
    if changes.get("antialias") is False:
        settings["resize_dtype"] = "float32"  # Pillow always widens its filters
    elif changes.get("interpolation") not in (None, "bilinear", "bicubic"):
        settings |= {"resize_dtype": "uint8", "antialias": True}  # only Pillow has the other filters
    settings |= changes
    settings["arithmetic"] = ours = "caller" if settings.get("resize_dtype") == "float32" else arithmetic
    if changes.get("arithmetic", ours) != ours:
        raise UsageError(
            f"{where}.arithmetic is {changes['arithmetic']!r:.80}, and the export would give {ours!r}; leave it out, "
            "and choose by --input uint8 (graph) or --input float32 (caller)"
        )
    try:
        return decode(ImagePreprocessing, json.loads(json.dumps(settings)), where, fill_defaults=True)
    except ManifestError as exc:
        if unusable:
            raise WeightsError(f"{exc}; the model's own preprocessing cannot be used, so {STATE_ALL}") from unusable
        raise UsageError(f"{exc}; the fields are {_KNOWN}") from exc


def _crop_as_transformers(image: Any, side: int) -> Any:
    """Cut out the centre of a PIL image or of a tensor; half a pixel of offset is rounded down."""
    _, height, width = get_dimensions(image)
    return crop(image, (height - side) // 2, (width - side) // 2, side, side)
