from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import close_session

import runtime
from runtime.server.metrics import Metrics
from runtime.server.run import build_server, open_models
from runtime.server.served_model import ServedModel
from runtime.server.service import EmbeddingService
from runtime.server.settings import ServerSettings
from tests.runtime.toy_artifact import write_artifact

ROOM = 1 << 28
CLIENT = httpx2.Client(trust_env=False)  # one for all: it loads certificates for a tenth of a second


@dataclass(frozen=True, kw_only=True)
class Running:
    url: str
    service: EmbeddingService
    stop: Callable[[], None]  # as SIGTERM does

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(self, path: str, body: object, **options: Any) -> httpx2.Response:
        return CLIENT.post(self.url + path, json=body, **options)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return CLIENT.get(self.url + path, **options)

    def wait_until(self, is_true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not is_true():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def wait_until_empty(self) -> None:
        """The tickets of all requests are back."""
        admission = self.service.admission
        self.wait_until(lambda: (admission.tokens, admission.size_bytes, len(self.service.dispatcher)) == (0, 0, 0))


@contextmanager
def serving(models: list[ServedModel], *, room: int = ROOM, prefix: str = "", **settings: Any) -> Iterator[Running]:
    """Serve models from a thread of this process, on a free port of the loopback, as if a proxy cut ``prefix`` off."""
    service = EmbeddingService(models, ServerSettings(port=0, **settings), Metrics(), room_bytes=room)
    server = build_server(service)
    server.config.root_path = prefix
    thread, stop = threading.Thread(target=server.run), partial(server.handle_exit, 15, None)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Running(url=f"http://127.0.0.1:{port}", service=service, stop=stop)
    finally:
        stop()
        thread.join(20)
    assert not thread.is_alive()


def serving_texts(folder: Path, **text: Any) -> AbstractContextManager[Running]:
    models = {"texts": write_artifact(folder / "texts", **text)}
    return serving(open_models(models, ServerSettings(), concurrent_batches=1, threads=1))


PROMPTS = {"query": "query : ", "passage": "passage : "}


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an artifact of texts and images, with prompts and up to 8 tokens."""
    return write_artifact(tmp_path_factory.mktemp("served") / "toy", image=True, prompts=PROMPTS)


@pytest.fixture(scope="session")
def model(toy: Path) -> runtime.Embedder:
    return runtime.load(toy)


@pytest.fixture(scope="session")
def toy_models(toy: Path) -> list[ServedModel]:
    return open_models({"toy": toy}, ServerSettings(), concurrent_batches=2, threads=2)


@pytest.fixture(scope="session")
def server(toy_models: list[ServedModel]) -> Iterator[Running]:
    """A server that all tests share. At the end, it holds nothing."""
    with serving(toy_models) as running:
        yield running
        running.wait_until_empty()


@pytest.fixture(scope="session", autouse=True)
def _close_clients() -> Iterator[None]:
    yield
    close_session()
    CLIENT.close()
