"""Items are prepared within the memory that the server has for it."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Lock

import pytest
from PIL import Image

from runtime.preprocess import image as image_module
from runtime.preprocess.image import decoding_bytes, load_image
from runtime.server import preparation
from runtime.server.served_model import ServedModel
from tests.image_bytes import encode
from tests.runtime.server.conftest import Running, serving

PHOTO = encode(Image.new("RGB", (1200, 1000)), "PNG")
ROOM = 3 * decoding_bytes(PHOTO)  # a half of it is for preparation: one photo at a time


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


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP", "JPEG2000", "AVIF"])
def test_decoding_takes_no_more_memory_than_it_says(name: str, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(encode(Image.new("RGB", (4000, 3000)), name))
    code = (
        "import re, sys; from pathlib import Path; from runtime.preprocess.image import *\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) << 10\n"
        "data = Path(sys.argv[1]).read_bytes(); said, before = decoding_bytes(data), peak()\n"
        "load_image(data); print(said, peak() - before)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "image"], check=True, capture_output=True, text=True
    ).stdout
    said, taken = map(int, printed.split())
    assert 0.2 * said < taken < said + (8 << 20)
