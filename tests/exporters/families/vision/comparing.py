"""Compare artifacts with libraries, on images and texts that no graph was traced with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import exporters
import runtime
from exporters.catalogue.options import ExportOptions
from runtime.artifact.manifest import TowerName
from tests.exporters.families.tried import record

# The whole preprocessing, as the way out for a model whose own cannot be used.
STATED: dict[str, Any] = {
    "resize": "70",
    "crop": 64,
    "interpolation": "bilinear",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
}
MAX_ERROR = 2e-5  # share of the largest value; measured: at most 2e-6
TEXTS = (
    "Two dogs, one of them ASLEEP, on a red sofa.",
    "a",
    "",
    "  don't_stop!  ",
    "Ein Zug fährt über die Brücke 🚂",
    "very long " * 90,
)


def make_images() -> list[Image.Image]:
    """Return images of several shapes, one smaller than the crop: waves of colour with some noise."""
    generator, images = np.random.default_rng(7), []
    for height, width in ((120, 90), (70, 200), (31, 40), (64, 64)):
        rows, columns = np.mgrid[:height, :width]
        waves = np.stack([np.sin(rows / (5 + 3 * each) + columns / (9 - each)) for each in range(3)], axis=-1)
        noise = generator.normal(0, 12, (height, width, 3))
        images.append(Image.fromarray(np.clip(127 + 100 * waves + noise, 0, 255).astype(np.uint8)))
    return images


def export(name: str | Path, folder: Path, **options: Any) -> Path:
    return exporters.export(str(name), output=folder / "artifacts", options=ExportOptions(force=True, **options))


def measure(artifact: Path, tower: TowerName, items: Sequence[Any], expected: Callable[[Any], Any]) -> float:
    """Return the largest difference from the library, alone and in batches, as a share of the largest value."""
    with torch.inference_mode():
        theirs = np.stack([np.asarray(expected(item)).reshape(-1) for item in items])
    model = runtime.load(artifact, provider="cpu")
    if model.manifest.towers[tower].normalized:
        theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    worst = 0.0
    for batch_size in (1, 3):
        ours = model.embed(items, tower=tower, batch_size=batch_size)
        assert ours.shape == theirs.shape
        worst = max(worst, float(np.abs(ours - theirs).max() / np.abs(theirs).max()))
    return worst


def check_images(artifact: Path, expected: Callable[[Image.Image], Any], group: str, name: str, library: str) -> None:
    worst = measure(artifact, "image", make_images(), expected)
    assert worst <= MAX_ERROR
    record(group, name, "equal", worst, library=library)


def check_texts(artifact: Path, expected: Callable[[str], Any], group: str, name: str, library: str) -> None:
    worst = measure(artifact, "text", TEXTS, expected)
    assert worst <= MAX_ERROR
    record(group, name, "equal", worst, library=library)
