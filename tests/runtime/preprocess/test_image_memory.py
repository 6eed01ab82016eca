"""The memory that preparing an image takes is bounded by its header."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runtime.preprocess.image_memory import preparing_bytes
from tests.image_bytes import RECIPE, encode, tiled_tiff
from tests.peak_memory import needs_proc, run_and_read


def test_an_icon_may_hold_more_pixels_than_it_states() -> None:
    icon = encode(Image.new("RGB", (16, 16)), "ICO")
    assert preparing_bytes(icon, RECIPE) > 10 * (Image.MAX_IMAGE_PIXELS or 0)


def test_a_tile_can_be_larger_than_its_image() -> None:
    assert preparing_bytes(tiled_tiff(2048), RECIPE) > 2048**2


def test_a_tile_of_negative_width_takes_no_memory_away() -> None:
    data = tiled_tiff(64).replace(struct.pack("<HHII", 322, 4, 1, 64), struct.pack("<HHIi", 322, 9, 1, -100_000))
    assert preparing_bytes(data, RECIPE) > 0


def test_an_image_that_will_be_refused_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow itself refuses only more than twice its limit."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    assert preparing_bytes(encode(Image.new("RGB", (10, 15)), "PNG"), RECIPE) == 0
    assert preparing_bytes(tiled_tiff(16), RECIPE) == 0


CASES = {
    "JPEG": (12, "RGB", "JPEG", {}, "uint8"),
    "progressive": (12, "RGB", "JPEG", {"progressive": True, "subsampling": 0}, "uint8"),
    "CMYK": (12, "CMYK", "JPEG", {"progressive": True, "subsampling": 0}, "uint8"),
    "PNG": (12, "RGBA", "PNG", {}, "uint8"),
    "PNG on white": (12, "LA", "PNG", {}, "uint8"),
    "GIF": (12, "P", "GIF", {}, "uint8"),
    "WEBP": (12, "RGBA", "WEBP", {"lossless": True, "method": 0}, "uint8"),
    "JPEG2000": (12, "RGBA", "JPEG2000", {}, "uint8"),
    "AVIF": (12, "RGB", "AVIF", {"speed": 10}, "uint8"),
    "one pixel wide": ((1, 300), "RGB", "PNG", {}, "uint8"),
    "one pixel high": ((300, 1), "RGB", "PNG", {}, "uint8"),
    "thin floats": ((2400, 8), "RGB", "PNG", {}, "float32"),
}


@pytest.mark.process
@needs_proc
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_preparing_takes_no_more_memory_than_it_says(case: Any, tmp_path: Path) -> None:
    size, mode, name, options, dtype = case
    size = (4000, 1000 * size // 4) if isinstance(size, int) else size
    (tmp_path / "image").write_bytes(encode(Image.new(mode, size), name, **options))
    code = (
        "from PIL import Image; from runtime.preprocess.image import *\n"
        "from runtime.preprocess.image_memory import preparing_bytes\n"
        "from runtime.artifact.manifest import ImagePreprocessing\n"
        "recipe = ImagePreprocessing(resize_size=232, crop_size=224, interpolation='bilinear', mean=(0.5,) * 3, "
        f"std=(0.5,) * 3, resize_dtype={dtype!r}, arithmetic='caller', alpha='white')\n"
        "Image.MAX_IMAGE_PIXELS = 1 << 24; prepare = ImagePreprocessor(recipe).prepare\n"
        "prepare(np.zeros((9, 9, 3), np.uint8))\n"
        "data = Path(sys.argv[1]).read_bytes(); said, before = preparing_bytes(data, recipe), peak()\n"
        "prepare(data); print(said, peak() - before)"
    )
    said, taken = run_and_read(code, tmp_path / "image")
    assert 0.15 * said < taken < said + (8 << 20)
