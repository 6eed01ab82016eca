"""Items are prepared within the memory that the server has for it."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import pytest
from PIL import Image

from runtime.artifact.manifest import ImagePreprocessing
from runtime.preprocess import image as image_module
from runtime.preprocess.image import load_image, preparing_bytes
from runtime.server import preparation
from runtime.server.served_model import ServedModel
from tests.image_bytes import encode
from tests.runtime.server.conftest import Running, serving

PHOTO = encode(Image.new("RGB", (1200, 1000)), "PNG")
RECIPE = ImagePreprocessing(
    resize_size=8, crop_size=8, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), arithmetic="graph"
)
ROOM = 3 * preparing_bytes(PHOTO, RECIPE)  # a half of it is for preparation: one photo at a time


def as_url(data: bytes) -> dict[str, str]:
    return {"image": "data:image/png;base64," + base64.b64encode(data).decode()}


@pytest.fixture
def small(toy_models: list[ServedModel]) -> Iterator[Running]:
    with serving(toy_models, room=ROOM, max_body_bytes=1 << 20) as running:
        yield running
        running.wait_until_empty()


def test_photos_wait_until_there_is_memory(small: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    most, now, lock = 0, 0, Lock()

    def load(item: bytes) -> Image.Image:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        loaded = load_image(item)
        with lock:
            now -= 1
        return loaded

    monkeypatch.setattr(image_module, "load_image", load)
    barrier = Barrier(4)

    def send(_: int) -> int:
        barrier.wait()
        return small.post("/v1/embeddings", {"input": [as_url(PHOTO)] * 3}).status_code

    with ThreadPoolExecutor(4) as clients:
        assert list(clients.map(send, range(4))) == [200] * 4
    assert most == 1


def test_an_image_that_is_too_large_when_decoded_is_refused(small: Running) -> None:
    bomb = encode(Image.new("1", (4000, 4000)), "PNG")
    assert len(bomb) < 5000
    answer = small.post("/v1/embeddings", {"input": [as_url(bomb)]})
    assert answer.status_code == 413
    assert "an item of input needs up to 152 MiB of memory" in answer.json()["error"]["message"]
    assert "raise --memory-limit" in answer.json()["error"]["message"]
    assert small.post("/v1/embeddings", {"input": [as_url(PHOTO)]}).status_code == 200


def test_a_text_that_is_too_long_to_tokenize_is_refused(small: Running) -> None:
    answer = small.post("/embed", {"inputs": "x" * 100_000, "truncate": True})
    assert answer.status_code == 413
    many = small.post("/embed", {"inputs": ["x" * 3000] * 30, "truncate": True})
    assert many.status_code == 200, "in parts"
    assert 3000 * 30 * preparation._BYTES_PER_CHARACTER > ROOM


def test_a_large_item_is_not_overtaken_for_ever() -> None:
    order: list[str] = []
    prepared = preparation.Preparation(1, room_bytes=100)

    def take(name: str, size_bytes: int) -> None:
        with prepared._reserve(size_bytes, "input"):
            order.append(name)

    with ThreadPoolExecutor(2) as threads, prepared._reserve(60, "input"):
        threads.submit(take, "large", 100)
        while not prepared._turn.locked():
            time.sleep(0.001)
        threads.submit(take, "small", 30)
        time.sleep(0.05)  # time to overtake
    assert order == ["large", "small"]
    prepared.close()


def test_the_rest_of_a_refused_request_is_not_prepared(small: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []

    def load(item: bytes) -> Image.Image:
        loaded.append(len(item))
        return load_image(item)

    monkeypatch.setattr(image_module, "load_image", load)
    bomb = encode(Image.new("1", (4000, 4000)), "PNG")
    assert small.post("/v1/embeddings", {"input": [as_url(bomb)] + [as_url(PHOTO)] * 60}).status_code == 413
    assert small.post("/v1/embeddings", {"input": [as_url(PHOTO)]}).status_code == 200, "the threads are free"
    assert len(loaded) < 30


def test_an_icon_may_hold_more_pixels_than_it_states() -> None:
    icon = encode(Image.new("RGB", (16, 16)), "ICO")
    assert preparing_bytes(icon, RECIPE) > 10 * (Image.MAX_IMAGE_PIXELS or 0)


CASES = {
    "JPEG": (12, "RGB", "JPEG", {}, "uint8"),
    "progressive": (12, "RGB", "JPEG", {"progressive": True, "subsampling": 0}, "uint8"),
    "CMYK": (12, "CMYK", "JPEG", {"progressive": True, "subsampling": 0}, "uint8"),
    "PNG": (12, "RGBA", "PNG", {}, "uint8"),
    "GIF": (12, "P", "GIF", {}, "uint8"),
    "WEBP": (12, "RGBA", "WEBP", {"lossless": True, "method": 0}, "uint8"),
    "JPEG2000": (12, "RGBA", "JPEG2000", {}, "uint8"),
    "AVIF": (12, "RGB", "AVIF", {"speed": 10}, "uint8"),
    "thin": ((1, 1000), "RGB", "PNG", {}, "uint8"),
    "thin in strips": ((8, 140_000), "RGB", "PNG", {}, "uint8"),
    "thin floats": ((8, 140_000), "RGB", "PNG", {}, "float32"),
}


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_preparing_takes_no_more_memory_than_it_says(case: Any, tmp_path: Path) -> None:
    size, mode, name, options, dtype = case
    size = (4000, 1000 * size // 4) if isinstance(size, int) else size
    (tmp_path / "image").write_bytes(encode(Image.new(mode, size), name, **options))
    code = (
        "import re, sys; from pathlib import Path; from PIL import Image; from runtime.preprocess.image import *\n"
        "from runtime.artifact.manifest import ImagePreprocessing\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) << 10\n"
        "recipe = ImagePreprocessing(resize_size=232, crop_size=224, interpolation='bilinear', mean=(0.5,) * 3, "
        f"std=(0.5,) * 3, resize_dtype={dtype!r}, arithmetic='caller')\n"
        "Image.MAX_IMAGE_PIXELS = 1 << 26; prepare = ImagePreprocessor(recipe).prepare\n"
        "prepare(np.zeros((9, 9, 3), np.uint8))\n"
        "data = Path(sys.argv[1]).read_bytes(); said, before = preparing_bytes(data, recipe), peak()\n"
        "prepare(data); print(said, peak() - before)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "image"], check=True, capture_output=True, text=True
    ).stdout
    said, taken = map(int, printed.split())
    assert 0.15 * said < taken < said + (8 << 20)
