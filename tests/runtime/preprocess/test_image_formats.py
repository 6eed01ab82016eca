"""Test the suffixes of images, and HEIC."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, features

from runtime.preprocess.image import load_image
from runtime.preprocess.image_formats import image_suffixes
from runtime.preprocess.item import UnusableItemError
from tests.image_bytes import encode

_HEIC = b"\0\0\0\x18ftypheic" + b"\0" * 64


def test_suffixes_are_those_of_images_that_pillow_opens() -> None:
    suffixes = image_suffixes()
    assert {".jpg", ".jfif", ".mpo", ".jp2", ".heic", ".tga", ".ico"} <= set(suffixes)
    assert not {".pdf", ".eps", ".ps", ".mpg", ".h5", ".wmf", ".grib"} & set(suffixes)
    assert len(set(suffixes)) == len(suffixes)


def test_heic_without_its_plugin_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnusableItemError, match=r"HEIC, which Pillow opens with pillow-heif: `pip install .*\[heic\]"):
        load_image(_HEIC)


def test_avif_with_the_brand_of_heic_needs_no_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = encode(Image.new("RGB", (6, 4)), "AVIF")
    assert load_image(data[:8] + b"mif1" + data[12:]).size == (6, 4)


def test_an_installed_plugin_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    registered: list[bool] = []
    fake = SimpleNamespace(register_heif_opener=lambda: registered.append(True))
    monkeypatch.setitem(sys.modules, "pillow_heif", fake)
    with pytest.raises(UnusableItemError, match="not an image of a kind"):
        load_image(_HEIC)  # the fake opens nothing
    assert registered == [True]


def test_heic_is_read_with_its_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    data = encode(Image.new("RGB", (64, 48), (200, 30, 30)), "HEIF")
    monkeypatch.delitem(Image.OPEN, "HEIF")  # as in a process that has not registered it
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    image = load_image(data)
    assert image.size == (64, 48)
    red, green, _ = np.asarray(image)[20, 20]
    assert red > 180
    assert green < 60
