"""Test that images are prepared as torchvision's transforms prepare them, bit for bit."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import get_model_weights
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from exporters.catalogue.registry import BACKBONES
from exporters.catalogue.spec import CnnSource
from exporters.modules.pixels import NormalizePixels
from runtime.array_types import UInt8Array
from runtime.artifact.manifest import ImagePreprocessing
from runtime.preprocess.image import ImagePreprocessor, load_image, pixel_values, resize_and_crop
from runtime.preprocess.item import UnusableItemError
from tests.image_bytes import encode, tiff


def _prepare(item: Any, recipe: ImagePreprocessing) -> np.ndarray[Any, Any]:
    return ImagePreprocessor(recipe).prepare(item)


SIZES = {
    "landscape": (640, 427),
    "portrait": (301, 450),
    "square": (232, 232),
    "as-is": (384, 600),
    "wide": (900, 31),
    "tall": (17, 803),
    "tiny": (5, 3),
    "one-pixel": (1, 1),
}


def make_recipe(transforms: ImageClassification, **changes: Any) -> ImagePreprocessing:
    fields: dict[str, Any] = {
        "resize_size": transforms.resize_size[0],
        "crop_size": transforms.crop_size[0],
        "interpolation": transforms.interpolation.value,
        "mean": tuple(transforms.mean),
        "std": tuple(transforms.std),
        "arithmetic": "caller",
    }
    return ImagePreprocessing(**(fields | changes))


TORCHVISION = {name: spec.source for name, spec in BACKBONES.items() if isinstance(spec.source, CnnSource)}


@pytest.fixture(scope="module", params=TORCHVISION)
def transforms(request: pytest.FixtureRequest) -> ImageClassification:
    preset: ImageClassification = get_model_weights(TORCHVISION[request.param].builder)["DEFAULT"].transforms()
    return preset


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_equals_torchvision_at_every_shape(
    transforms: ImageClassification, size: tuple[int, int], photos: list[Image.Image]
) -> None:
    image = photos[2].resize(size)
    ours = _prepare(image, make_recipe(transforms))
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, transforms(image).numpy())


def test_equals_torchvision_on_photos(transforms: ImageClassification, photos: list[Image.Image]) -> None:
    for photo in photos:
        np.testing.assert_array_equal(_prepare(photo, make_recipe(transforms)), transforms(photo).numpy())


def test_arithmetic_in_the_graph_equals_torchvision(transforms: ImageClassification, photos: list[Image.Image]) -> None:
    pixels = _prepare(photos[0], make_recipe(transforms, arithmetic="graph"))
    assert pixels.dtype == np.uint8
    in_graph = NormalizePixels(transforms.mean, transforms.std)(torch.from_numpy(pixels[None].copy()))
    np.testing.assert_array_equal(in_graph[0].numpy(), transforms(photos[0]).numpy())


def test_pixel_values_of_a_batch_are_those_of_its_rows(photos: list[Image.Image]) -> None:
    recipe = make_recipe(ImageClassification(crop_size=32, resize_size=36))
    rows = [resize_and_crop(photo, recipe) for photo in photos]
    stacked: UInt8Array = np.stack(rows).astype(np.uint8)
    batch = pixel_values(stacked, recipe)
    assert batch.shape == (len(photos), 3, 32, 32)
    np.testing.assert_array_equal(batch[1], pixel_values(rows[1], recipe))


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"])
def test_modes_convert_as_pillow_does(mode: str, photos: list[Image.Image]) -> None:
    image = photos[0].convert("RGB").convert(mode) if mode != "LAB" else _to_lab(photos[0])
    np.testing.assert_array_equal(np.asarray(load_image(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("mode", "suffix"), [("CMYK", "JPEG"), ("P", "GIF"), ("P", "PNG"), ("RGBA", "PNG"), ("L", "BMP")]
)
def test_modes_convert_from_files(mode: str, suffix: str, photos: list[Image.Image]) -> None:
    encoded = encode(photos[1].convert(mode), suffix)
    np.testing.assert_array_equal(
        np.asarray(load_image(encoded)), np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    )


def test_transparent_pixels_keep_their_colour() -> None:
    hidden_red = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert load_image(hidden_red).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "P with opacities", "RGB"])
def test_transparent_images_are_put_on_white(mode: str, photos: list[Image.Image]) -> None:
    """Bit for bit as ``alpha_composite`` does, which transformers calls."""
    image = photos[0].convert("RGB")
    if mode.endswith("A"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image = image.convert(mode)
    elif mode == "RGB":
        image.info["transparency"] = image.getpixel((3, 3))
    else:
        image = image.quantize(16)
        image.info["transparency"] = bytes(range(0, 256, 16)) if mode.endswith("opacities") else 5
    rgba = image.convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    assert expected.tobytes() != load_image(image).tobytes()
    for item in (image, encode(image, "PNG")):
        assert load_image(item, "white").tobytes() == expected.tobytes()


def test_a_transparent_grey_of_sixteen_bits_is_white() -> None:
    data = encode(Image.fromarray(np.array([[0, 30_000, 65_535]], np.uint16)), "PNG", transparency=30_000)
    assert np.asarray(load_image(data, "white"))[0, :, 0].tolist() == [0, 255, 255]
    assert np.asarray(load_image(data))[0, :, 0].tolist() == [0, 117, 255]


@pytest.mark.parametrize("suffix", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_become_eight_as_in_torchvision(suffix: str) -> None:
    values = np.linspace(0, 65535, 60 * 50).astype(np.uint16).reshape(50, 60)
    ours = np.asarray(load_image(encode(Image.fromarray(values), suffix)))
    expected = v2.functional.to_dtype(torch.from_numpy(values)[None], torch.uint8, scale=True)[0].numpy()
    for channel in range(3):
        np.testing.assert_array_equal(ours[..., channel], expected)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).swapaxes(0, 1)),
        (8, np.rot90),
    ],
)
def test_exif_orientation_is_applied(
    orientation: int, upright: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]], photos: list[Image.Image]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = load_image(encode(photos[1], "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(turned), upright(np.asarray(photos[1])))


def _photo_with_exif(photo: Image.Image, exif: bytes) -> bytes:
    return encode(photo, "JPEG", exif=b"Exif\0\0" + exif)


def test_other_invalid_exif_tags_are_ignored(photos: list[Image.Image]) -> None:
    """Orientation 6, and an XResolution that is text instead of a fraction, which Pillow cannot write."""
    tags = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")
    encoded = _photo_with_exif(photos[1], b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + tags + b"\0" * 4)
    assert load_image(encoded).size == photos[1].size[::-1]


@pytest.mark.parametrize("exif", [b"", b"garbage", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_exif_is_ignored(exif: bytes, photos: list[Image.Image]) -> None:
    assert load_image(_photo_with_exif(photos[1], exif)).size == photos[1].size


def test_every_kind_of_item_gives_the_same_pixels(photo_paths: list[Path]) -> None:
    path = photo_paths[1]
    image = Image.open(path)
    items: list[Any] = [path, str(path), path.read_bytes(), image, np.asarray(image)]
    first, *others = [np.asarray(load_image(item)) for item in items]
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_the_callers_image_is_not_changed(photos: list[Image.Image]) -> None:
    image = photos[0].copy()
    before = image.tobytes()
    _prepare(image, make_recipe(ImageClassification(crop_size=32, resize_size=36)))
    assert image.tobytes() == before


def test_warnings_and_logs_of_pillow_are_suppressed(photos: list[Image.Image], capfd: Any) -> None:
    """A warning per image does not name the image, and a million of them would hide other output."""
    damaged = _photo_with_exif(photos[1], b"MM\0*\0\0\0\x08\xff\xff")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        load_image(damaged)
        assert warned == []
        Image.open(io.BytesIO(damaged)).getexif()
        assert [each.category for each in warned] == [UserWarning]  # else the first half proves nothing
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="libtiff is linked statically")
@pytest.mark.process
def test_libtiff_prints_nothing(photos: list[Image.Image], tmp_path: Path) -> None:
    """In a process of its own, because silence lasts as long as the process."""
    path = tmp_path / "a.tif"
    photos[0].resize((64, 48)).save(path, compression="tiff_lzw")
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"\xff" * 400 + data[408:])
    pillow = f"Image.open({str(path)!r}).load()"
    ours = f"load_image({str(path)!r})"
    head = "from PIL import Image; from runtime.preprocess.image import load_image\ntry: "
    printed = [
        subprocess.run(
            [sys.executable, "-c", f"{head}{call}\nexcept Exception: pass"], stderr=subprocess.PIPE, check=True
        )
        for call in (pillow, ours)
    ]
    assert printed[0].stderr  # else the other half proves nothing
    assert printed[1].stderr == b""


def test_the_warning_filters_are_restored(photos: list[Image.Image]) -> None:
    before = list(warnings.filters)
    load_image(photos[0])
    with pytest.raises(UnusableItemError):
        load_image(b"no image")
    assert list(warnings.filters) == before


@pytest.mark.parametrize("name", ["TIFF", "JPEG", "PNG", "WEBP", "AVIF", "MPO", "HEIF"])
def test_an_image_is_turned_once(name: str, photos: list[Image.Image]) -> None:
    """Pillow's TIFF reader and pillow-heif turn an image that they decode, and the other readers do not."""
    if name == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif name not in Image.SAVE and (Image.init() or name not in Image.SAVE):
        pytest.skip(f"this Pillow writes no {name}")
    exif = Image.Exif()
    exif[0x0112] = 6
    half_white = Image.new("RGB", (64, 32))
    half_white.paste((255, 255, 255), (0, 0, 32, 32))
    upright = load_image(encode(half_white, name, exif=exif.tobytes()))  # pillow-heif writes bytes as a turn
    assert upright.size == (32, 64)
    assert np.asarray(upright)[:24].min() > 200  # the left half is now on top
    assert np.asarray(upright)[40:].max() < 50


@pytest.mark.parametrize(("bits", "signed", "dtype"), [(16, 1, "<u2"), (16, 2, "<i2"), (32, 1, "<u4"), (32, 2, "<i4")])
def test_grey_tiff_is_scaled_by_its_declared_depth(bits: int, signed: int, dtype: str) -> None:
    largest = np.iinfo(dtype).max
    values = np.array([[0, largest // 2, largest]], dtype)
    assert np.asarray(load_image(_grey_tiff(values.tobytes(), 3, bits, signed)))[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_tiff_with_white_as_zero_is_inverted(bits: int) -> None:
    data = np.array([[0, 2**bits - 1]], f"<u{bits // 8}").tobytes()
    assert np.asarray(load_image(_grey_tiff(data, 2, bits, 1, photometric=0)))[0, :, 0].tolist() == [255, 0]


def test_an_image_in_several_items_is_decoded_once(photos: list[Image.Image]) -> None:
    """Pillow decodes an image without a lock: threads would mix their pixels."""
    data = encode(photos[0].resize((1200, 900)), "JPEG")
    expected = load_image(data).tobytes()
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            image = Image.open(io.BytesIO(data))
            assert {each.tobytes() for each in pool.map(load_image, [image] * 4)} == {expected}


def test_twelve_bits_are_scaled() -> None:
    """Two values of 12 bits in three bytes: 0x800 and 0xFFF."""
    grey = np.asarray(load_image(_grey_tiff(bytes([0x80, 0x0F, 0xFF]), 2, 12, 1)))
    assert grey[0, :, 0].tolist() == [128, 255]


def test_floats_become_eight_bits_as_in_torchvision() -> None:
    values = np.linspace(0, 1, 5000, dtype=np.float32).reshape(50, 100)
    ours = np.asarray(load_image(encode(Image.fromarray(values), "TIFF")))[..., 0]
    expected = v2.functional.to_dtype(torch.from_numpy(values), torch.uint8, scale=True).numpy()
    np.testing.assert_array_equal(ours, expected)


def _grey_tiff(pixels: bytes, width: int, bits: int, sample_format: int, photometric: int = 1) -> bytes:
    """Return a TIFF of one row; with black as zero by default."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8}
    return tiff(tags | {277: 1, 278: 1, 279: len(pixels), 339: sample_format}, pixels)


@pytest.mark.parametrize("resize_dtype", ["uint8", "float32"])
def test_an_image_that_would_be_huge_when_resized_is_refused(resize_dtype: Any) -> None:
    recipe = make_recipe(ImageClassification(crop_size=224, resize_size=232), resize_dtype=resize_dtype, antialias=True)
    sliver = np.zeros((1, 2048, 3), np.uint8)
    with pytest.raises(UnusableItemError, match="resized to 475136 x 232 pixels are more than"):
        _prepare(sliver, recipe)


def _to_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    return (
        ImageCms.profileToProfile(
            image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
        or image
    )
