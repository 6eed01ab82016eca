"""Test that what is no image, or a damaged or dangerous one, is refused, and that the error says why."""

from __future__ import annotations

import io
import os
import random
import struct
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile, ImageOps

from runtime.preprocess.image import load_image, resize_and_crop
from runtime.preprocess.item import UnusableItemError
from tests.image_bytes import RECIPE, encode, tiff, tiled_tiff


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (b"", "empty"),
        (b"not an image", "not an image of a kind"),
        ("", "the path is empty"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.zeros((4, 4, 3), np.float32), r"uint8 \[height, width, 3\]"),
        (np.zeros((4, 4), np.uint8), r"uint8 \[height, width, 3\]"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \[height, width, 3\]"),
        (np.ma.masked_equal(np.zeros((4, 4, 3), np.uint8), 0), "a masked array is not an image"),
        (Image.new("RGB", (0, 5)), "0 x 5"),
        (Image.new("F", (4, 4), 200), "it has floats from 200 to 200, where images have 0 to 1"),
        (Image.new("F", (4, 4), float("nan")), "it has floats from nan to nan"),
        (Image.fromarray(np.full((4, 4), 200, np.int32)), "31 bits end at 200, and would become nearly black"),
        (Image.fromarray(np.full((4, 4), -1, np.int32)), "negative values"),
        (Image.fromarray(np.full((4, 4), 4095, np.uint16)), "16 bits end at 4095, and would become nearly black"),
        (Path("no/such/file.jpg"), "no such file"),
        (Path(__file__).parent, "folder"),
        (Path(__file__), "not an image"),
        (17, "int is not an image"),
        (None, "NoneType is not an image"),
    ],
)
def test_unusable_items_say_why(item: Any, reason: str) -> None:
    with pytest.raises(UnusableItemError, match=reason):
        load_image(item)


@pytest.mark.parametrize("name", ["pipe.jpg", "pipe"])
def test_a_pipe_is_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UnusableItemError, match="not a regular file"):
        load_image(tmp_path / name)


def test_a_device_is_refused() -> None:
    with pytest.raises(UnusableItemError, match="not a regular file"):
        load_image("/dev/zero")


def test_eps_is_refused_and_no_program_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments: started.append(arguments))
    with pytest.raises(UnusableItemError, match="EPS, a program"):
        load_image(encode(Image.new("RGB", (4, 4)), "EPS"))
    assert started == []


def test_an_icon_larger_than_its_header_states_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow only warns up to twice its limit, and checks the image inside an ICO file only when it decodes it."""
    inner = encode(Image.new("RGB", (20, 20)), "PNG")
    icon = struct.pack("<3H4B2H2I", 0, 1, 1, 4, 4, 0, 0, 1, 24, len(inner), 22) + inner
    assert load_image(icon).size == (20, 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(UnusableItemError, match=r"20 x 20 pixels are more than PIL\.Image\.MAX_IMAGE_PIXELS"):
        load_image(icon)


_DAMAGED_FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {},
    "WEBP": {"lossless": True},
    "GIF": {},
    "BMP": {},
    "TIFF": {},
    "TIFF-LZW": {"compression": "tiff_lzw"},
}


@pytest.mark.parametrize("name", _DAMAGED_FORMATS)
def test_what_pillow_refuses_is_refused(name: str, photos: list[Image.Image]) -> None:
    data = encode(photos[0].resize((64, 48)), name.split("-")[0], **_DAMAGED_FORMATS[name])
    draw = random.Random(19)  # noqa: S311  repeatable damage
    verdicts = [_verdicts(_damage(data, draw)) for _ in range(120)]
    assert [ours for ours, _ in verdicts] == [pillows for _, pillows in verdicts]
    assert None in {pillows for _, pillows in verdicts} or name == "BMP"


def _damage(data: bytes, draw: random.Random) -> bytes:
    """Change one byte, a run of bytes, or the length."""
    damaged, at, kind = bytearray(data), draw.randrange(8, len(data)), draw.randrange(3)
    if kind == 2:
        return data[:at]
    count = 1 if kind else 20
    damaged[at : at + count] = draw.randbytes(len(damaged[at : at + count]))
    return bytes(damaged)


def _verdicts(data: bytes) -> tuple[bytes | None, bytes | None]:
    """Return the pixels by the runtime and by Pillow, or ``None`` where they are refused."""
    try:
        ours = load_image(data).tobytes()
    except UnusableItemError:
        ours = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data))
            image.load()
            return ours, ImageOps.exif_transpose(image).convert("RGB").tobytes()
        except Exception:  # noqa: BLE001  Pillow's decoders raise many
            return ours, None


def test_an_open_image_that_failed_is_refused_again(photos: list[Image.Image]) -> None:
    """Pillow's second ``load`` of a damaged PNG succeeds, and the rest is black."""
    data = bytearray(encode(photos[0], "PNG"))
    data[len(data) // 2] ^= 255
    image = Image.open(io.BytesIO(data))
    for _ in range(2):
        with pytest.raises(UnusableItemError, match="cannot be decoded"):
            load_image(image)


def test_a_truncated_file_says_so(photo_paths: list[Path]) -> None:
    data = photo_paths[0].read_bytes()
    with pytest.raises(UnusableItemError, match="truncated"):
        load_image(data[: len(data) // 2])


def test_a_tile_larger_than_its_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow decodes the whole tile, however few pixels of it belong to the image."""
    data = tiled_tiff(64)
    assert load_image(data).size == (1, 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    with pytest.raises(UnusableItemError, match=r"its tiles of 64 x 64 pixels are more than PIL\.Image"):
        load_image(data)


PIXEL: dict[int, int | tuple[int, ...]] = {256: 1, 257: 1, 258: (16,) * 3, 259: 1, 262: 2, 277: 3, 278: 1}
MISREAD = {
    "16 bits in planes": (tiff(PIXEL | {273: (8, 10, 12), 279: (2,) * 3, 284: 2}, bytes(6)), "16 bits in planes"),
    "signed": (tiff(PIXEL | {258: 8, 262: 1, 273: 8, 277: 1, 279: 1, 339: 2}, b"\xff"), "signed values of 8 bits"),
}


@pytest.mark.parametrize(("data", "reason"), MISREAD.values(), ids=MISREAD)
def test_a_tiff_that_pillow_misreads_is_refused(data: bytes, reason: str) -> None:
    Image.open(io.BytesIO(data)).load()
    with pytest.raises(UnusableItemError, match=reason):
        load_image(data)


def test_colours_of_16_bits_that_pillow_reads_are_taken() -> None:
    data = tiff(PIXEL | {273: 8, 279: 6, 284: 1}, struct.pack("<3H", 0x1000, 0x8000, 0xFFFF))
    assert load_image(data).getpixel((0, 0)) == (0x10, 0x80, 0xFF)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "TIFF", "GIF"])
def test_an_image_whose_file_is_closed_says_so(name: str, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "image", name)
    with Image.open(tmp_path / "image") as image:
        pass
    with pytest.raises(UnusableItemError, match=r"closed before it was decoded; give its path"):
        load_image(image)
    with Image.open(tmp_path / "image") as image:
        image.load()
    assert load_image(image).size == (4, 4)


class LateImageFile(ImageFile.ImageFile):
    """An image whose reader opens a stream of its own in every ``load``, as that of FlashPix does."""

    format = "LATE"

    def _open(self) -> None:
        self._size, self._mode, self._held, self.fp = (1, 1), "RGB", self.fp, None
        self.tile = [ImageFile._Tile("raw", (0, 0, 1, 1), 4, "RGB")]

    def load(self) -> Any:
        assert self._held
        self._held.seek(0)
        self.fp = self._held
        return super().load()


def test_a_path_may_have_a_reader_that_opens_its_stream_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image").write_bytes(b"LATE\1\2\3")
    monkeypatch.setattr(Image, "ID", ["LATE"])
    monkeypatch.setitem(Image.OPEN, "LATE", (LateImageFile, lambda prefix: prefix.startswith(b"LATE")))
    image = load_image(tmp_path / "image")
    assert image.resize((2, 2)).getpixel((0, 0)) == (1, 2, 3), "which loads it again"


def test_of_a_large_file_no_more_is_read_than_its_first_image(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    Image.new("RGB", (4, 4), (1, 2, 3)).save(path)
    os.truncate(path, 1 << 26)
    load_image(path)
    tracemalloc.start()
    assert load_image(path).getpixel((0, 0)) == (1, 2, 3)
    _, taken = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 1 << 22


def test_an_image_that_would_vanish_when_resized_is_refused() -> None:
    recipe = replace(RECIPE, resize="long_side")
    with pytest.raises(
        UnusableItemError, match="1 x 2000 pixels are so thin that they would be resized to 0 x 8; crop"
    ):
        resize_and_crop(Image.new("RGB", (1, 2000)), recipe)


def test_an_error_without_a_message_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", Mock(side_effect=EOFError))
    with pytest.raises(UnusableItemError, match=r"it cannot be decoded \(EOFError\)"):
        load_image(Image.new("L", (4, 4)))


def test_a_decompression_bomb_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    for side in (10_000, 20_000):  # Pillow warns of the first size and refuses the second
        bomb = encode(Image.new("1", (side, side)), "PNG")
        assert len(bomb) < 100_000
        with pytest.raises(UnusableItemError, match="bomb"):
            load_image(bomb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    with pytest.raises(UnusableItemError, match="MAX_IMAGE_PIXELS"):
        load_image(np.zeros((10, 10, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(np.zeros((10, 10, 3), np.uint8)).size == (10, 10)
