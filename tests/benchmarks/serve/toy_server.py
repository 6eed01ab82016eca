"""A server for tests that answers OpenAI's and TEI's requests, on the loopback and on a free port."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

DIMENSIONS = 4


def vector_of(item: Any) -> list[float]:
    """Return a vector that depends on the item alone."""
    numbers = np.frombuffer(str(item).encode().ljust(16, b"."), dtype=np.uint8)[-DIMENSIONS:].astype(np.float32)
    return [float(number) for number in numbers / np.linalg.norm(numbers)]


class ToyServer(ThreadingHTTPServer):
    """A server that can be told to behave badly."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.headers: list[dict[str, str]] = []
        self.documents: list[Any] = []
        self.status = 200
        self.chunked = False  # send the body in chunks
        self.closes = False  # close the connection after each answer without a warning
        self.extra = 0  # vectors too many
        self.models: list[str] = ["toy"]
        self.info: Any = {}  # of `/info`

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients hang up


@contextlib.contextmanager
def toy_server() -> Iterator[ToyServer]:
    server = ToyServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ToyServer
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        models = {"data": [{"id": name} for name in self.server.models]}
        self._send(self.server.info if self.path == "/info" else models)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.headers.append(dict(self.headers))
        if self.server.status != 200:
            self._send({"error": {"message": "no"}})
        elif self.headers["Content-Type"].startswith("multipart"):
            self._send([vector_of(part) for part in range(body.count(b"filename="))])
        else:
            document = json.loads(body)
            self.server.documents.append(document)
            self._send(self._openai(document) if self.path == "/v1/embeddings" else self._tei(document))

    def _openai(self, document: Any) -> Any:
        vectors: list[Any] = self._vectors(document["input"])
        if document.get("encoding_format") == "base64":
            vectors = [base64.b64encode(np.array(vector, dtype="<f4").tobytes()).decode() for vector in vectors]
        data = [{"index": n, "embedding": vector} for n, vector in enumerate(vectors)]
        return {"data": data[::-1], "model": document["model"]}  # the order is in `index`

    def _tei(self, document: Any) -> Any:
        return self._vectors(document["inputs"])

    def _vectors(self, items: Any) -> list[Any]:
        items = items if isinstance(items, list) else [items]
        return [vector_of(item) for item in items] + [[0.0] * DIMENSIONS] * self.server.extra

    def _send(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(self.server.status)
        if self.server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            half = len(body) // 2
            for part in (body[:half], body[half:]):
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        self.close_connection = self.server.closes

    def log_message(self, *args: Any) -> None:
        pass
