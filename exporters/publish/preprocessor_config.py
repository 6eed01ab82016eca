"""Describe the preparation of images to transformers, transformers.js and fastembed."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from exporters.publish.json_file import write_json
from exporters.publish.proof import prepare_pixels, run_graph
from exporters.publish.source import Source
from exporters.samples.photos import load_photos
from runtime.artifact.parity import format_cosine, row_cosines

EXIF = "Consumers take photos as they are stored. The runtime turns them upright by their EXIF tag; turn them yourself."


def write_preprocessor(source: Source, folder: Path) -> None:
    """Write ``preprocessor_config.json``."""
    recipe = source.image
    side, crop = recipe.resize_size, recipe.crop_size
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "feature_extractor_type": "CLIPFeatureExtractor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": side, "width": side} if recipe.resize == "squash" else {"shortest_edge": side},
            "resample": int(Image.Resampling[recipe.interpolation.upper()]),
            "do_center_crop": True,
            "crop_size": {"height": crop, "width": crop},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(recipe.mean),
            "image_std": list(recipe.std),
        },
    )


def alpha_differences(source: Source) -> list[str]:
    """Describe what consumers make of transparent images, if the model takes them otherwise."""
    if source.image.alpha == "drop":
        return []
    return ["Consumers drop the alpha of a transparent image. The runtime puts it on white; do that yourself."]


def crop_difference(source: Source, graph: Path, name: str) -> list[str]:
    """Measure the cost of a crop whose offset is rounded down, if the model was trained with another rounding."""
    if source.image.crop_rounding == "floor":
        return []
    photos = load_photos()
    right, others = (prepare_pixels(source, photos, **change) for change in ({}, {"crop_rounding": "floor"}))
    cosines = row_cosines(*(run_graph(graph, {name: pixels})[0] for pixels in (right, others)))
    cost = f"smallest cosine similarity on {len(photos)} photos {format_cosine(float(cosines.min()))}"
    return [f"Consumers round half a pixel of the crop's offset down; torchvision, and this model, to even: {cost}."]
