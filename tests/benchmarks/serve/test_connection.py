"""Test the HTTP client and the interfaces against a real server on the loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.serve.connection import Connection, split_url
from benchmarks.serve.interfaces import AnswerError, Endpoint, make_endpoint
from runtime.errors import UsageError
from tests.benchmarks.serve.toy_server import ToyServer, toy_server, vector_of
from tests.ports import free_port

TEXTS = ["one", "two: «zwei»", "three"]


@pytest.fixture
def server() -> Iterator[ToyServer]:
    with toy_server() as server:
        yield server


def ask(endpoint: Endpoint, items: list[Any], times: int = 1, pause_s: float = 0.0) -> list[tuple[int, bytes]]:
    async def main() -> list[tuple[int, bytes]]:
        connection = Connection(endpoint.address)
        answers = []
        for _ in range(times):
            answers.append(await connection.ask(endpoint.request(items)))
            await asyncio.sleep(pause_s)
        connection.close()
        return answers

    return asyncio.run(main())


@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
@pytest.mark.parametrize(("path", "encoding"), [("", "float"), ("", "base64"), ("/embed", "float")])
def test_every_interface_gives_the_vectors_of_the_items(
    server: ToyServer, path: str, encoding: Any, chunked: bool
) -> None:
    server.chunked = chunked
    endpoint = make_endpoint(server.url + path, encoding=encoding, model="toy", headers=[("X-Key", "secret")])
    for items in (TEXTS, TEXTS[:1]):
        ((status, body),) = ask(endpoint, items)
        assert status == 200
        np.testing.assert_allclose(endpoint.vectors(body, len(items)), [vector_of(item) for item in items], rtol=1e-6)
    assert server.headers[0]["X-Key"] == "secret"


def test_files_go_as_data_urls_or_as_files_of_a_form(server: ToyServer, tmp_path: Path) -> None:
    photo, drawing, mesh = (tmp_path / name for name in ("photo.jpg", "drawing.PNG", "mesh.off"))
    for file in (photo, drawing, mesh):
        file.write_bytes(b"\xff\xd8")
    openai = make_endpoint(server.url, model="toy")
    ask(openai, [photo, drawing, mesh])
    types = [("image", "image/jpeg"), ("image", "image/png"), ("mesh", "model/vnd.off")]
    items = [{kind: f"data:{media_type};base64,/9g="} for kind, media_type in types]
    assert server.documents == [{"input": items, "model": "toy"}]
    tei = make_endpoint(f"{server.url}/embed")
    ((_, body),) = ask(tei, [photo, photo])
    assert len(tei.vectors(body, 2)) == 2


def test_a_connection_is_kept_and_opened_again_after_the_server_closed_it(server: ToyServer) -> None:
    endpoint = make_endpoint(server.url)
    server.closes = True
    answers = ask(endpoint, TEXTS, times=3, pause_s=0.05)
    assert [status for status, _ in answers] == [200] * 3


def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OSError, match="onnect"):
        ask(make_endpoint(f"http://127.0.0.1:{free_port()}"), TEXTS)


@pytest.mark.parametrize(
    ("url", "path", "interface"),
    [
        ("http://h:1", "/v1/embeddings", "openai"),
        ("http://h:1/", "/v1/embeddings", "openai"),
        ("http://h:1/api/v1", "/api/v1/embeddings", "openai"),
        ("http://h:1/embeddings", "/embeddings", "openai"),
        ("http://h:1/embed", "/embed", "tei"),
    ],
)
def test_the_path_of_a_url_may_be_complete(url: str, path: str, interface: str) -> None:
    endpoint = make_endpoint(url)
    assert (endpoint.path, endpoint.interface) == (path, interface)


def test_the_interface_can_be_given() -> None:
    assert make_endpoint("http://h", interface="tei").path == "/embed"
    with pytest.raises(UsageError, match="base64"):
        make_endpoint("http://h/embed", encoding="base64")


@pytest.mark.parametrize("url", ["h:80", "ftp://h", "http://", "http://h:99999", "nothing"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="URL"):
        split_url(url)


def test_addresses_may_have_any_host_but_no_password_or_query() -> None:
    address, path = split_url("https://[::1]:8443/embed/")
    assert (str(address), path) == ("https://[::1]:8443", "/embed")
    with pytest.raises(UsageError, match="password"):
        split_url("https://user:secret@host")
    with pytest.raises(UsageError, match="after \\? or #") as caught:
        split_url("https://host/embed?key=secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"{}",
        b'{"data": []}',
        b'{"data": [{"index": 0, "embedding": [1, 2]}]}',
        b'{"data": [{"index": 0, "embedding": [1, 2]}, {"index": 0, "embedding": [1, 2]}]}',
        b'{"data": [{"index": 0, "embedding": [1, 2]}, {"index": 1, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [1, 2]}, {"index": 1, "embedding": [1, NaN]}]}',
        b'{"data": [{"index": 0, "embedding": [1, 2]}, {"index": 1, "embedding": "AAA"}]}',
        b'{"data": [{"index": 0, "embedding": []}, {"index": 1, "embedding": []}]}',
    ],
)
def test_answers_without_the_right_vectors_are_found(body: bytes) -> None:
    with pytest.raises(AnswerError):
        make_endpoint("http://h").vectors(body, 2)
