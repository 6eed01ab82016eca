from __future__ import annotations

from pathlib import Path

import numpy as np

from exporters.calibration.dataset import load_calibration_dataset
from exporters.variants.batches import make_calibration_batches
from runtime.array_types import Array
from runtime.artifact.manifest import ImagePreprocessing
from runtime.artifact.reader import read_manifest
from runtime.inference.tower import LoadedTower
from runtime.preprocess.image import pixel_values
from runtime.session.session import SessionOptions


def read_varied_images(artifact: Path) -> tuple[ImagePreprocessing, list[Array]]:
    tower, dataset = read_manifest(artifact).towers["image"], load_calibration_dataset("image", None, 16)
    assert isinstance(tower.preprocessing, ImagePreprocessing)
    loaded = LoadedTower(artifact, tower, SessionOptions(provider="cpu"))
    made = make_calibration_batches(artifact, tower.preprocessing, loaded, dataset)
    return tower.preprocessing, [array for batch in made.extra_batches for array in batch.values()]


def test_images_vary_before_the_caller_normalises_them(exported: Path, exported_float32: Path) -> None:
    preprocessing, pixels = read_varied_images(exported)
    _, values = read_varied_images(exported_float32)
    assert [len(each) for each in values] == [8, 8]
    for before, after in zip(pixels, values, strict=True):
        np.testing.assert_array_equal(after, pixel_values(before, preprocessing))
