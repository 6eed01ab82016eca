"""Items are prepared within the memory that the server has for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Lock
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import runtime
from runtime.artifact.manifest import Alpha
from runtime.inference import tower
from runtime.inference.memory import ItemMemory
from runtime.preprocess import image as image_module
from runtime.preprocess.image import load_image
from runtime.preprocess.image_memory import preparing_bytes
from runtime.preprocess.memory_limit import ask_for_memory
from runtime.server import preparation
from runtime.server.items import ServerItem
from runtime.server.metrics import Metrics
from runtime.server.preparation import EmbedCall, Preparation
from runtime.server.request_errors import RequestError
from runtime.server.run import open_models
from runtime.server.served_model import ServedModel
from runtime.server.service import EmbeddingService
from runtime.server.settings import ServerSettings
from tests.image_bytes import RECIPE, encode
from tests.runtime.preprocess.cube import CORNERS, off
from tests.runtime.server.conftest import Running, serving
from tests.runtime.server.test_openai_api import data_url
from tests.runtime.toy_artifact import write_artifact, write_mesh_artifact

PHOTO = encode(Image.new("RGB", (1200, 1000)), "PNG")
ROOM = 3 * preparing_bytes(PHOTO, RECIPE)  # a half of it is for preparation: one photo at a time


@pytest.fixture
def small(toy_models: list[ServedModel]) -> Iterator[Running]:
    with serving(toy_models, room=ROOM, max_body_bytes=1 << 20) as running:
        yield running
        running.wait_until_empty()


def test_photos_wait_until_there_is_memory(small: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    most, now, lock = 0, 0, Lock()

    def load(item: bytes, alpha: Alpha) -> Image.Image:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        loaded = load_image(item, alpha)
        with lock:
            now -= 1
        return loaded

    monkeypatch.setattr(image_module, "load_image", load)
    barrier = Barrier(4)

    def send(_: int) -> int:
        barrier.wait()
        return small.post("/v1/embeddings", {"input": [{"image": data_url(PHOTO)}] * 3}).status_code

    with ThreadPoolExecutor(4) as clients:
        assert list(clients.map(send, range(4))) == [200] * 4
    assert most == 1


def test_an_image_does_not_wait_for_all_images_of_a_large_request(
    toy_models: list[ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    order = list[int]()

    def prepare(call: EmbedCall, part: object) -> list[object]:
        order.append(len(call.items))
        return [np.zeros(1)]

    async def prepare_both() -> None:
        item, threads = ServerItem(kind="image", content=PHOTO), Preparation(1, 1 << 30)
        calls = [EmbedCall(model=toy_models[0], items=[item] * count) for count in (20, 1)]
        await asyncio.gather(*map(threads.prepare, calls))
        threads.close()

    monkeypatch.setattr(preparation, "_prepare", prepare)
    asyncio.run(prepare_both())
    assert order == [20, 1] + [20] * 19


def test_an_image_that_is_too_large_when_decoded_is_refused(small: Running) -> None:
    bomb = encode(Image.new("1", (4000, 4000)), "PNG")
    assert len(bomb) < 5000
    answer = small.post("/v1/embeddings", {"input": [{"image": data_url(bomb)}]})
    assert answer.status_code == 413
    assert "an item needs up to 152 MiB of memory" in answer.json()["error"]["message"]
    assert "raise --memory-limit" in answer.json()["error"]["message"]
    assert small.post("/v1/embeddings", {"input": [{"image": data_url(PHOTO)}]}).status_code == 200


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
        for _ in range(20_000):
            if prepared._turn.locked():
                break
            time.sleep(0.001)
        threads.submit(take, "small", 30)
        time.sleep(0.05)  # time to overtake
    assert order == ["large", "small"]
    prepared.close()


def test_a_reader_that_asks_again_and_again_starts_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[None] = []

    def prepare(*_: object) -> list[object]:
        attempts.append(None)
        for size_bytes in range(100, 100_000, 100):
            ask_for_memory(size_bytes)
        return []

    monkeypatch.setattr(preparation, "_needed_bytes", lambda *_: (100, 100))
    monkeypatch.setattr(preparation, "_prepare", prepare)
    prepared: Any = preparation.Preparation(1, room_bytes=1_000_000)
    prepared._prepare_in_turn(SimpleNamespace(param="input"), None)
    assert len(attempts) <= 12
    prepared.close()


def test_the_rest_of_a_refused_request_is_not_prepared(small: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []

    def load(item: bytes, alpha: Alpha) -> Image.Image:
        loaded.append(len(item))
        return load_image(item, alpha)

    monkeypatch.setattr(image_module, "load_image", load)
    bomb = encode(Image.new("1", (4000, 4000)), "PNG")
    large, usual = {"image": data_url(bomb)}, {"image": data_url(PHOTO)}
    assert small.post("/v1/embeddings", {"input": [large, *[usual] * 60]}).status_code == 413
    assert small.post("/v1/embeddings", {"input": [usual]}).status_code == 200, "the threads are free"
    assert len(loaded) < 30


def test_token_ids_beyond_the_memory_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = ItemMemory(per_length=1e6)
    monkeypatch.setattr(tower, "estimate_memory", lambda folder, record: item)
    options = runtime.CpuOptions(memory_limit_bytes=item.batch_bytes(1, 7))
    models = open_models({"toy": write_artifact(tmp_path / "toy")}, ServerSettings(), provider_options=options)
    with serving(models) as server:
        for texts in (["a b c d a b"], [[2, 4, 5, 6, 7, 4, 5, 3]]):
            refused = server.post("/embed", {"inputs": texts})
            assert refused.status_code == 400
            assert "memory_limit_bytes allows" in refused.json()["error"]


def test_rows_and_vectors_are_counted_before_items_are_decoded(
    toy_models: list[ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[bytes] = []
    monkeypatch.setattr(image_module, "load_image", loaded.append)
    items = [ServerItem(kind="image", content=encode(Image.new("RGB", (1, 1)), "PNG"))] * 1000
    with pytest.raises(RequestError, match=r"needs 152000 bytes of memory") as refused:  # 4 x 4 x 3, and 4 x 26
        embed(toy_models[0], items, room_bytes=200_000)
    assert (refused.value.status, loaded) == (413, [])


@pytest.mark.parametrize(
    ("items", "size_bytes"),
    [
        ([ServerItem(kind="mesh", content=off().encode(), suffix=".off")], 64 * 12),
        ([ServerItem(kind="mesh", content=CORNERS)], 8 * 12),
    ],
    ids=["file", "points"],
)
def test_the_rows_of_meshes_are_as_large_as_counted(items: list[ServerItem], size_bytes: int, tmp_path: Path) -> None:
    (model,) = open_models({"meshes": write_mesh_artifact(tmp_path / "meshes")}, ServerSettings(), threads=1)
    assert embed(model, items, room_bytes=1 << 28) == size_bytes + 3 * 26


def embed(model: ServedModel, items: list[ServerItem], *, room_bytes: int) -> int:
    """Embed items as the first request of a server, and return the bytes that were taken for it."""
    service = EmbeddingService([model], ServerSettings(), Metrics(), room_bytes=room_bytes)
    try:
        with service.admission.enter() as ticket:
            asyncio.run(service.embed(EmbedCall(model=model, items=items), ticket))
            return ticket.size_bytes
    finally:
        service.close()
