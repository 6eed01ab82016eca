"""Transforms of torchvision, timm and open_clip as the runtime's preprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast, get_args

from torchvision.transforms import Compose
from torchvision.transforms._presets import ImageClassification

from exporters.errors import WeightsError
from exporters.families.vision.pixels import STATE_ALL, Preparation, check_pixels
from exporters.weights.parsing import summarize_error
from runtime.artifact.manifest import Arithmetic, ImagePreprocessing, Interpolation

# Steps that change nothing in an RGB photo, or that the runtime does anyway. ``MaybeConvertMode`` of open_clip converts
# other images to RGB after the resize. The runtime does that before: see the differences in docs/embedding.md.
_NEUTRAL = ("MaybeConvertMode", "MaybeToTensor", "ToTensor", "MaybePILToTensor")


@contextmanager
def building_transforms(library: str, settings: object) -> Iterator[None]:
    """Report the errors of a ``library`` that builds transforms from ``settings`` in the block.

    Raises:
        WeightsError: The library does not take the settings; the message names both.
    """
    try:
        yield
    except Exception as exc:  # open_clip asserts, and timm looks names up
        raise WeightsError(
            f"{library} builds no image transforms from {settings} ({summarize_error(exc)}); {STATE_ALL}"
        ) from exc


def wrap_transforms(transforms: Compose | ImageClassification, arithmetic: Arithmetic, library: str) -> Preparation:
    """Return ``transforms`` and the runtime's equal. Error messages call their origin ``library``.

    Raises:
        WeightsError: There is none, or the runtime's pixels differ.
    """
    preprocessing = read_transforms(transforms, arithmetic)
    check_pixels(transforms, preprocessing, library)
    return transforms, preprocessing


def read_transforms(transforms: Compose | ImageClassification, arithmetic: Arithmetic) -> ImagePreprocessing:
    """Return the runtime's preprocessing that equals ``transforms``.

    Raises:
        WeightsError: There is none; the message names the step.
    """
    if isinstance(transforms, ImageClassification):
        settings = _resize(transforms) | {"crop_size": _side(transforms.crop_size)} | _normalize(transforms)
        return ImagePreprocessing(arithmetic=arithmetic, **settings)
    settings = {}
    for step in transforms.transforms:
        settings |= _read_step(step)
    missing = {"Resize": "resize_size", "Normalize": "mean"}
    lacking = [name for name, key in missing.items() if key not in settings]
    if lacking:
        raise WeightsError(f"the transforms {transforms} lack {' and '.join(lacking)}; {STATE_ALL}")
    squashed = settings.get("resize") == "squash"
    if "crop_size" not in settings and not squashed:
        raise WeightsError(f"the transforms {transforms} give images of different sizes; {STATE_ALL}")
    return ImagePreprocessing(arithmetic=arithmetic, **{"crop_size": settings["resize_size"]} | settings)


def _read_step(step: Any) -> dict[str, Any]:
    name = type(step).__name__
    if name == "Resize":
        return _resize(step)
    if name == "ResizeKeepRatio" and step.longest in (0, 1):
        mode = "long_side" if step.longest else "short_side"
        return {"resize": mode, "resize_size": _side(step.size), "interpolation": _filter(step.interpolation)}
    if name == "CenterCrop":
        return {"crop_size": _side(step.size)}
    if name == "CenterCropOrPad":
        return {"crop_size": _side(step.size), "fill": _colour(step.fill)}
    if name == "Normalize":
        return _normalize(step)
    if name in _NEUTRAL:
        return {}
    raise WeightsError(f"the runtime has no equal of the transform {step}; {STATE_ALL}")


def _resize(step: Any) -> dict[str, Any]:
    size = getattr(step, "size", None) or step.resize_size
    if getattr(step, "max_size", None):
        raise WeightsError(f"the transform {step} limits the long side too, which the runtime cannot; {STATE_ALL}")
    squash = isinstance(size, Sequence) and len(size) == 2
    mode = "squash" if squash else "short_side"
    return {"resize": mode, "resize_size": _side(size), "interpolation": _filter(step.interpolation)}


def _normalize(step: Any) -> dict[str, Any]:
    mean, std = (tuple(map(float, values)) for values in (step.mean, step.std))
    if len(mean) != 3 or len(std) != 3:
        raise WeightsError(
            f"the model normalises {len(mean)} channels, and the runtime gives it three; it has no equal"
        )
    return {"mean": mean, "std": std}


def _side(size: Any) -> int:
    sides = {int(side) for side in (size if isinstance(size, Sequence) else [size])}
    if len(sides) != 1:
        raise WeightsError(
            f"the model takes rectangular images of {' x '.join(map(str, size))} pixels, and the runtime only prepares "
            "squares; export it at a square size with --image-size"
        )
    return sides.pop()


def _colour(fill: Any) -> tuple[int, int, int]:
    red, green, blue = fill if isinstance(fill, Sequence) else (fill,) * 3
    return int(red), int(green), int(blue)


def _filter(interpolation: Any) -> Interpolation:
    name = str(getattr(interpolation, "value", interpolation))
    if name not in get_args(Interpolation):
        raise WeightsError(f"the runtime has no filter {name}; {STATE_ALL}")
    return cast(Interpolation, name)
