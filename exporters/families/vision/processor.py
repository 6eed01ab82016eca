"""Image processors of transformers as the runtime's preprocessing. Their pixels decide, not the name of their class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor

from exporters.errors import WeightsError
from exporters.families.vision.pixels import STATE_ALL, Preparation, find_alpha, find_equal
from exporters.families.vision.transforms import wrap_transforms
from exporters.weights.model_folder import quiet_transformers
from exporters.weights.parsing import parsing, summarize_error
from runtime.artifact.manifest import Arithmetic, ImagePreprocessing, Interpolation
from runtime.errors import UsageError

_DTYPES = ("uint8", "float32")
_FILTERS: Mapping[int, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}
_READ = ("size", "resample", "crop_size", "image_mean", "image_std", "rescale_factor")  # settings that are read here


def read_processor(
    folder: Path, arithmetic: Arithmetic, image_size: int | None = None, *, source: str | None = None
) -> Preparation:
    """Return the image processor in a folder as a function of one image, and the runtime's equal.

    The processor that resizes with Pillow is preferred to the one that resizes tensors, if there are both.

    Args:
        folder: A folder with a ``preprocessor_config.json``.
        arithmetic: Whether the graph normalises pixels, or its caller.
        image_size: Side of the prepared images; ``None`` for that of the processor.
        source: Name of the folder in error messages; ``None`` for its path.

    Raises:
        WeightsError: There is none that transformers loads, or the runtime has no equal.
    """
    try:
        with quiet_transformers():
            auto: Any = AutoImageProcessor
            processor: Any = auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False, backend="pil")
    except Exception as exc:  # transformers raises many types for a damaged or unknown folder
        name = source or str(folder)
        raise WeightsError(
            f"{name} holds no image processor that transformers loads "
            f"({summarize_error(exc).replace(str(folder), name)}); save one there with processor.save_pretrained "
            f"(preprocessor_config.json), correct its settings, or {STATE_ALL}"
        ) from exc
    if image_size is not None:
        processor = _change_size(processor, image_size)
    return wrap_processor(processor, arithmetic)


def wrap_processor(processor: Any, arithmetic: Arithmetic) -> Preparation:
    """Return an image processor as a function of one image, and the runtime's equal.

    Raises:
        WeightsError: The runtime has no equal; the message names the class and its settings.
    """
    if hasattr(processor, "val_transforms"):  # of TimmWrapperImageProcessor, which has no other settings
        return wrap_transforms(processor.val_transforms, arithmetic, "timm")
    name = type(processor).__name__

    def transforms(image: Image.Image) -> Tensor:
        pixels: Tensor = processor(image, return_tensors="pt")["pixel_values"]
        return pixels[0]

    with parsing(f"the image processor {name}"):
        found = find_equal(transforms, _candidates(processor, arithmetic))
    if found is None:
        raise WeightsError(f"the runtime cannot prepare images as {name} does with {_describe(processor)}; {STATE_ALL}")
    preprocessing = find_alpha(transforms, found)
    if preprocessing is None:
        raise WeightsError(f"the runtime cannot prepare transparent images as {name} does; {STATE_ALL}")
    return transforms, preprocessing


def _candidates(processor: Any, arithmetic: Arithmetic) -> Iterator[ImagePreprocessing]:
    """Yield all preprocessings that the settings can mean. Classes read the same names in different ways."""
    if not getattr(processor, "do_resize", False):
        return
    size, crop = _sizes(processor, "size"), _sizes(processor, "crop_size")
    side, squash = size.get("shortest_edge") or size.get("height"), "height" in size
    # A limit of the long side shows only in images that are longer than those of the comparison.
    if side is None or "longest_edge" in size or len({size.get("height"), size.get("width")}) != 1:
        return
    cropped = crop.get("height") if getattr(processor, "do_center_crop", False) else None
    if cropped is not None and cropped != crop.get("width"):
        return
    # ConvNeXt and PoolFormer enlarge the side by ``crop_pct``, LeViT by 256 / 224; ConvNeXt squashes from 384 pixels.
    share = getattr(processor, "crop_pct", None) or 224 / 256
    shapes = [
        ("squash" if squash else "short_side", side, cropped or side),
        ("short_side", int(side / share), cropped or side),
        ("short_side", int(256 / 224 * side), cropped or side),
        ("squash", side, cropped or side),
        ("squash", int(side / share), cropped or side),
    ]
    mean, std = _normalization(processor)
    resample = int(getattr(processor, "resample", None) or 0)
    for (resize, resize_size, crop_size), dtype, rounding in product(shapes, _DTYPES, ("floor", "half_even")):
        settings: dict[str, Any] = {"resize": resize, "resize_dtype": dtype, "crop_rounding": rounding}
        try:
            yield ImagePreprocessing(
                resize_size=resize_size,
                interpolation=_FILTERS[resample],
                crop_size=crop_size,
                mean=mean,
                std=std,
                arithmetic="caller" if dtype == "float32" else arithmetic,
                **settings,
            )
        except UsageError:  # for example a filter that floats do not have
            continue


def _normalization(processor: Any) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation for pixels from 0 to 1, whatever the processor's factor is."""
    rescaled = getattr(processor, "do_rescale", False)
    factor = 255 * float(processor.rescale_factor) if rescaled else 255.0
    normalized = getattr(processor, "do_normalize", False)
    mean, std = (processor.image_mean, processor.image_std) if normalized else ([0.0] * 3, [1.0] * 3)
    if getattr(processor, "include_top", False):  # EfficientNet's, which divides by its standard deviation once more
        std = [value * again for value, again in zip(_three(std), _three(processor.image_std), strict=True)]
    offset = float(rescaled and getattr(processor, "rescale_offset", False))  # EfficientNet's, which subtracts 1
    red, green, blue = ((float(value) + offset) / factor for value in _three(mean))
    red_std, green_std, blue_std = (float(value) / factor for value in _three(std))
    return (red, green, blue), (red_std, green_std, blue_std)


def _three(value: Any) -> Any:
    return [value] * 3 if isinstance(value, int | float) else value


def _sizes(processor: Any, name: str) -> Mapping[str, int]:
    value = getattr(processor, name, None)
    if value is None:
        return {}
    named = dict(value) if not isinstance(value, int) else {"height": value, "width": value}
    return {key: int(side) for key, side in named.items() if side}


def _change_size(processor: Any, side: int) -> Any:
    """Return a processor for images of another size, with the same share of the image in the crop."""
    if hasattr(processor, "data_config"):  # of TimmWrapperImageProcessor
        return type(processor)(pretrained_cfg=processor.data_config | {"input_size": (3, side, side)})
    size, crop = _sizes(processor, "size"), _sizes(processor, "crop_size")
    old = crop.get("height") if getattr(processor, "do_center_crop", False) else size.get("shortest_edge")
    old = old or size.get("height") or side
    processor.size = type(processor.size)(**{key: round(value * side / old) for key, value in size.items()})
    if crop:
        processor.crop_size = type(processor.crop_size)(**dict.fromkeys(crop, side))
    return processor


def _describe(processor: Any) -> str:
    """Return the settings of a processor in words, those that the runtime does not know first."""
    settings = {key: value for key, value in processor.to_dict().items() if value not in (None, False)}
    ours = [key for key in settings if key in _READ or key in ("image_processor_type", "do_resize", "do_rescale")]
    others = [key for key in settings if key not in ours]
    return ", ".join(f"{key} {settings[key]}" for key in (*others, *ours) if key != "image_processor_type")
