from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from runtime.preprocess.float_resize import resize_floats


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
    ("rows", "columns", "height", "width"), [(301, 417, 64, 88), (50, 37, 224, 100), (480, 33, 14, 224), (9, 9, 9, 5)]
)
def test_equals_torch(kind: str, antialias: bool, rows: int, columns: int, height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(
        tensor, (height, width), mode=kind, antialias=antialias, align_corners=False
    )[0].permute(1, 2, 0)
    actual = resize_floats(pixels, height, width, kind, antialias=antialias)
    assert actual.dtype == np.float32
    assert actual.shape == (height, width, 3)
    assert np.abs(actual - expected.numpy()).max() <= 255 * 3e-6


def test_a_large_image_is_never_floats_as_a_whole() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8192, 512, 3), dtype=np.uint8)
    tracemalloc.start()
    try:
        resized = resize_floats(pixels, 32, 32, "bilinear", antialias=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert resized.shape == (32, 32, 3)
    assert peak < 25_000_000  # the image takes 50 MB as floats
