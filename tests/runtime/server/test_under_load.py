"""Hang-ups, overload, slow and hostile clients: the server answers 4xx, drops what nobody waits for, and goes on."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.array_types import Float32Array
from runtime.errors import InferenceError
from runtime.server.connection import LimitedConnection
from runtime.server.run import DrainingServer
from runtime.server.served_model import ServedModel
from runtime.session.cancellation import CancellationToken
from tests.runtime.server.conftest import Running, serving

FATAL = 10  # the token of "passage"


class Gate:
    """Holds the batches of a model until it is opened. Then all fail with ``error``, or those with "passage"."""

    def __init__(self, model: ServedModel) -> None:
        self.error: Exception | None = None
        self.opened, self.entered, self.rows = threading.Event(), threading.Semaphore(0), 0
        runner = model.runners["text"]

        def embed(rows: Sequence[Any], *, side_by_side: bool) -> Float32Array:
            self.entered.release()
            assert self.opened.wait(20)
            self.rows += len(rows)
            if self.error:
                raise self.error
            if any(FATAL in row.ids for row in rows):
                raise InferenceError("a text that no graph can run")
            return runner.embed(rows, side_by_side=side_by_side)

        self.model = replace(model, runners={**model.runners, "text": replace(runner, embed=embed)})


@contextmanager
def gated(models: list[ServedModel], **settings: Any) -> Iterator[tuple[Gate, Running]]:
    gate = Gate(models[0])
    with serving([gate.model], **settings) as server:
        yield gate, server
        gate.opened.set()
        server.wait_until_empty()


def request(body: bytes, *headers: str) -> bytes:
    lines = ["POST /v1/embeddings HTTP/1.1", "host: a", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def connect(server: Running, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection.sendall(data)
    return connection


def exchange(server: Running, data: bytes) -> bytes:
    """Return all that the server sends until it closes the connection."""
    with connect(server, data) as connection:
        received = b""
        while part := connection.recv(1 << 16):
            received += part
    return received


def read_json(connection: socket.socket) -> bytes:
    """Return a whole response that ends with an object of JSON. It may arrive in parts."""
    received = b""
    while not received.endswith(b"}") and (part := connection.recv(1 << 16)):
        received += part
    return received


def test_items_of_a_client_that_hangs_up_are_dropped(toy_models: list[ServedModel]) -> None:
    with gated(toy_models) as (gate, server):
        held = [connect(server, request(b'{"input": "a"}')) for _ in range(2)]  # both lanes are busy
        assert gate.entered.acquire(timeout=20)
        assert gate.entered.acquire(timeout=20)
        gone = connect(server, request(json.dumps({"input": ["a b"] * 40}).encode()))
        server.wait_until(lambda: len(server.service.dispatcher) == 40)
        gone.close()
        server.wait_until(lambda: len(server.service.dispatcher) == 0)
        gate.opened.set()
        for connection in held:
            assert b" 200 OK" in connection.recv(1 << 16)
            connection.close()
        server.wait_until_empty()
        assert gate.rows == 2


def test_what_is_over_the_limit_is_refused_at_once(toy_models: list[ServedModel], model: runtime.Embedder) -> None:
    with gated(toy_models, max_queue_tokens=12) as (gate, server), ThreadPoolExecutor(1) as executor:
        waits = executor.submit(server.post, "/v1/embeddings", {"input": ["a", "b"]})  # 6 tokens
        assert gate.entered.acquire(timeout=20)
        for path, body in (("/v1/embeddings", {"input": ["a b c d"] * 2}), ("/embed", {"inputs": ["a b c d"] * 2})):
            full = server.post(path, body)
            assert full.status_code == 429
            assert int(full.headers["retry-after"]) >= 1
        assert server.post("/v1/embeddings", {"input": ["a b c d"] * 3}).status_code == 413
        gate.opened.set()
        answer = waits.result(20).json()
    assert np.array_equal([each["embedding"] for each in answer["data"]], model.embed(["a", "b"]))


def test_bytes_count_before_they_are_read(toy_models: list[ServedModel]) -> None:
    with serving(toy_models, room=60_000, max_body_bytes=50_000) as server:
        assert server.post("/v1/embeddings", {"input": "a" * 60_000}).status_code == 413
        assert server.post("/v1/embeddings", {"input": "a" * 12_000}).status_code == 413  # three copies of it
        unfinished = connect(server, request(b" " * 9_000)[:-1])
        server.wait_until(lambda: server.service.admission.size_bytes == 27_000)
        assert server.post("/v1/embeddings", {"input": "a" * 2_000}).status_code == 429
        unfinished.close()
        server.wait_until_empty()
        assert server.post("/v1/embeddings", {"input": "a"}).status_code == 200
        chunked = b"POST /embed HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nfffff\r\n" + b" " * 60_000
        with connect(server, chunked) as connection:
            assert b" 413 " in connection.recv(99)


def test_values_of_json_count_before_they_are_made(toy_models: list[ServedModel]) -> None:
    with serving(toy_models, room=1 << 20, max_body_bytes=1 << 18) as server:
        refused = server.post("/v1/embeddings", {"input": [{"text": ""}] * 2000})  # of 26 KB
        assert refused.status_code == 413
        assert "bytes of memory" in refused.json()["error"]["message"]
        unfinished = connect(server, request(b" " * 100_000)[:-1])
        server.wait_until(lambda: server.service.admission.size_bytes == 300_000)
        assert server.post("/v1/embeddings", {"input": [{"text": ""}] * 1000}).status_code == 429
        unfinished.close()
        server.wait_until_empty()
        assert server.post("/v1/embeddings", {"input": [{"text": ""}] * 500}).status_code == 200


def test_a_batch_that_fails_fails_alone(toy_models: list[ServedModel], model: runtime.Embedder) -> None:
    texts = ["a", "passage", "b", "c passage", "d"] * 4
    with gated(toy_models) as (gate, server), ThreadPoolExecutor(len(texts)) as executor:
        responses = executor.map(lambda text: server.post("/v1/embeddings", {"input": text}), texts)
        server.wait_until(lambda: server.service.admission.tokens == 64)  # all of them wait or are held
        gate.opened.set()
        for text, response in zip(texts, responses, strict=True):
            if "passage" in text:
                assert response.status_code == 500
                assert response.json()["error"]["type"] == "server_error"
            else:
                assert response.json()["data"][0]["embedding"] == model.embed([text])[0].tolist()


def test_slow_clients_are_cut_off(toy_models: list[ServedModel]) -> None:
    with serving(toy_models, client_seconds=0.2) as server:
        assert exchange(server, b"") == b""
        assert exchange(server, b"POST /v1/embeddings HTTP/1.1\r\nhost:") == b""
        assert b" 408 " in exchange(server, request(b'{"input": "a"}', "connection: close")[:-1])
        idle = connect(server, request(b'{"input": "a"}'))
        assert b" 200 OK" in idle.recv(1 << 16)
        idle.close()
        unread = connect(server, b"POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n")
        assert b" 404 " in read_json(unread)
        unread.sendall(b"{")  # which ends uvicorn's own deadline
        assert unread.recv(1) == b""
        unread.close()
        endless = connect(server, b"POST /nowhere HTTP/1.0\r\nhost: a\r\ncontent-length: 9999\r\n\r\n")
        with pytest.raises(ConnectionError):
            server.wait_until(lambda: endless.send(b"a") == 0)
        endless.close()


@pytest.mark.parametrize("header", ["connection: close", "HTTP/1.0"])
def test_a_refusal_arrives_before_the_body_is_read(toy_models: list[ServedModel], header: str) -> None:
    body, key = b"a" * (8 << 20), "authorization: Bearer key"
    with serving(toy_models, api_keys=("key",), max_body_bytes=9) as server:
        for path, status, *headers in (
            ("/embed", 401),
            ("/nowhere", 404, key),
            ("/health", 405, key),
            ("/embed", 413, key),
            ("/embed", 415, key, "content-encoding: gzip"),
        ):
            data = request(body, *headers, header).replace(b"/v1/embeddings", path.encode())
            if header == "HTTP/1.0":
                data = data.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"HTTP/1.0\r\n\r\n", b"\r\n")
            assert exchange(server, data).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_request_that_has_begun_is_answered_while_the_server_stops(toy_models: list[ServedModel]) -> None:
    with serving(toy_models) as server:
        whole = request(b'{"input": "a"}')
        begun = connect(server, whole[:-1])
        server.wait_until(lambda: server.service.admission.size_bytes > 0)
        server.service.draining = True
        assert server.get("/health").status_code == 503
        begun.sendall(whole[-1:])
        assert b" 200 OK" in begun.recv(1 << 16)
        begun.close()
        server.service.draining = False


def test_requests_on_their_way_are_answered_while_the_server_stops(
    toy_models: list[ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.server.connection._LAST_REQUEST_S", 5.0)  # however slow this machine is
    whole, clients, on_tick = request(b'{"input": "a"}'), list[socket.socket](), DrainingServer.on_tick

    async def connect_last(server: DrainingServer, counter: int) -> bool:
        ends = await on_tick(server, counter)
        if ends:  # from here on, the loop accepts no connection
            clients.append(socket.create_connection(server.servers[0].sockets[0].getsockname(), timeout=20))
        return ends

    monkeypatch.setattr(DrainingServer, "on_tick", connect_last)
    model = replace(toy_models[0], cancellation=CancellationToken())  # the second ``stop`` cancels it
    with serving([model]) as server:
        clients += [connect(server, b""), connect(server, whole)]
        assert b" 200 OK" in clients[1].recv(1 << 16)
        server.stop()
        server.wait_until(lambda: len(clients) == 3)
        for client in clients:
            client.sendall(whole)
            answer = b"".join(iter(partial(client.recv, 1 << 16), b""))
            assert b" 200 OK" in answer
            assert b"connection: close" in answer
            client.close()


def test_a_request_that_arrives_with_the_end_of_an_idle_connection_is_answered(
    toy_models: list[ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, clients, on_tick = request(b'{"input": "a"}'), list[socket.socket](), DrainingServer.on_tick

    async def end_idle(server: DrainingServer, counter: int) -> bool:
        while clients:
            clients.pop().sendall(whole)
            for connection in server.server_state.connections:
                assert isinstance(connection, LimitedConnection)
                connection.timeout_keep_alive_handler()
        return await on_tick(server, counter)

    monkeypatch.setattr(DrainingServer, "on_tick", end_idle)
    with serving(toy_models) as server, connect(server, whole) as client:
        assert b" 200 OK" in read_json(client)
        clients.append(client)
        assert b" 200 OK" in read_json(client)


@pytest.mark.parametrize(("drain_seconds", "signals"), [(0, 1), (60, 2)])
def test_a_batch_that_hangs_does_not_keep_the_server(
    toy_models: list[ServedModel], drain_seconds: float, signals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.server.run._ANSWER_S", 5.0)  # however slow this machine is
    gate = Gate(replace(toy_models[0], cancellation=CancellationToken()))  # one that its batches do not obey
    with ThreadPoolExecutor(1) as executor:
        with serving([gate.model], drain_seconds=drain_seconds) as server:
            unfinished = connect(server, request(b'{"input": "a"}')[:-1])
            waits = executor.submit(server.post, "/v1/embeddings", {"input": "a"})
            assert gate.entered.acquire(timeout=20)
            for _ in range(signals - 1):
                server.stop()
        assert waits.result(20).status_code == 503
    unfinished.close()
    gate.opened.set()


def test_a_body_that_arrives_after_the_answer_makes_the_connection_idle(
    toy_models: list[ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.server.run._KEEP_ALIVE_S", 8)
    with serving(toy_models, client_seconds=3) as server:
        connection = connect(server, request(b"a" * 9).replace(b"/v1/embeddings", b"/nowhere")[:-9])
        assert b" 404 " in read_json(connection)
        connection.sendall(b"a" * 9)
        connection.settimeout(3.5)
        with pytest.raises(TimeoutError):  # and no end of the connection
            connection.recv(1)
        connection.sendall(request(b'{"input": "a"}'))
        assert b" 200 OK" in connection.recv(1 << 16)
        connection.close()
        connection = connect(server, request(b"a" * 9).replace(b"/v1/embeddings", b"/nowhere")[:-9])
        assert b" 404 " in read_json(connection)
        connection.sendall(b"a" * 9)
        connection.settimeout(30)
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b"", "an idle connection ends"
        connection.close()


def test_a_client_that_does_not_read_its_response_is_cut_off(
    toy_models: list[ServedModel], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(toy_models, client_seconds=0.5) as server:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        body = json.dumps({"inputs": "a " * 60_000}).encode()  # the response is more than all buffers hold
        connection.sendall(request(body).replace(b"/v1/embeddings", b"/tokenize") * 3)
        server.wait_until(lambda: server.service.admission.size_bytes > 0)
        server.wait_until_empty()
        connection.close()
        assert server.post("/v1/embeddings", {"input": "a"}).status_code == 200
        assert 'te_request_count{path="/tokenize",status="499"} 1.0' in server.get("/metrics").text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\n" + b"a: b\r\n" * 9000 + b"\r\n", 431),
        (b"GET /v1/models HTTP/1.1\r\na: " + b"b" * 40_000, 431),
        (b"GET /" + b"a" * (8 << 20), 431),
        (b"POST /embed HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST /embed HTTP/1.1\r\ncontent-length: " + b"9" * 30 + b"\r\n\r\n", 400),
        (b"POST /embed HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
    ],
    ids=["nonsense", "many headers", "long header", "long line", "negative", "huge", "smuggling"],
)
def test_requests_that_are_no_http_get_an_envelope(server: Running, data: bytes, status: int) -> None:
    answer = exchange(server, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert json.loads(body)["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"input": "\xff"}',
        b'{"input": "\\ud800"}',
        b'{"input": NaN}',
        b"[]",
        b'"a"',
        b"null",
    ],
    ids=repr,
)
def test_bodies_that_are_no_json_object_are_refused(server: Running, body: bytes) -> None:
    for path in ("/v1/embeddings", "/embed", "/similarity", "/tokenize", "/v2/models/toy/infer"):
        answer = exchange(server, request(body, "connection: close").replace(b"/v1/embeddings", path.encode()))
        assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_length_may_begin_with_zeros(server: Running) -> None:
    data = request(b'{"input": "a"}', "connection: close").replace(b"-length: ", b"-length: " + b"0" * 5000)
    assert exchange(server, data).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("size", [1, 1000], ids=["byte by byte", "at once"])
def test_a_request_that_asks_for_another_protocol_is_answered_in_this_one(server: Running, size: int) -> None:
    """As Java's client does: it asks for HTTP/2 with its first request, and goes on in HTTP/1.1 then."""
    asking = request(b'{"input": "a"}', "connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAA")
    data = asking + request(b'{"input": "b"}', "connection: close")
    with connect(server, b"") as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), size):
            connection.sendall(data[start : start + size])
        received = b"".join(iter(partial(connection.recv, 1 << 16), b""))
    assert received.count(b"HTTP/1.1 200 ") == 2
    assert b"HTTP/1.1 400 " in exchange(server, b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n")
    assert exchange(server, b"CONNECT /embed HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 405 "
    )
    many = b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n" * 2000
    assert exchange(server, many + request(b'{"input": "a"}', "connection: close")).count(b"HTTP/1.1 200 ") == 2001


def test_compressed_bodies_and_unknown_paths_are_refused(server: Running) -> None:
    assert server.post("/embed", {}, headers={"content-encoding": "gzip"}).status_code == 415
    assert server.post("/embed", {"inputs": "a"}, headers={"content-encoding": "Identity"}).status_code == 200
    for path in ("/v1/other", "/embed_all", "/v2/models/other", "/v1/models/other"):
        assert server.get(path).status_code == 404
        assert server.get(path).json()["error"]
    assert server.get("/embeddings").json()["error"] == "Not Found: GET /embeddings; GET /docs lists all paths"
    assert server.get("/embed").status_code == 405


def test_request_ids_are_kept_if_they_are_harmless(server: Running) -> None:
    assert server.get("/health", headers={"x-request-id": "my-id.7"}).headers["x-request-id"] == "my-id.7"
    assert server.get("/health", headers={"x-request-id": "a b"}).headers["x-request-id"].isalnum()
