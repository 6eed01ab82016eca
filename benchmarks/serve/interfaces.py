"""The interfaces of OpenAI and of text-embeddings-inference (TEI): requests as bytes, and vectors from answers."""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from benchmarks.serve.connection import Address, format_request, split_url
from runtime.array_types import Float32Array
from runtime.errors import EmbeddingBackbonesError, UsageError
from runtime.server.items import MESH_SUFFIXES

InterfaceName = Literal["openai", "tei"]
Encoding = Literal["float", "base64"]
Item = str | Path  # a text, or the file of an image or a mesh
_BOUNDARY = "embedding-backbones-2f1c7a"
PATHS: dict[InterfaceName, str] = {"openai": "/v1/embeddings", "tei": "/embed"}


class AnswerError(EmbeddingBackbonesError):
    """An answer does not hold the vectors that were asked for."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """How to ask one server for embeddings."""

    address: Address
    path: str
    interface: InterfaceName
    encoding: Encoding = "float"
    model: str = ""  # for OpenAI's interface
    headers: tuple[tuple[str, str], ...] = ()

    def request(self, items: Sequence[Item]) -> bytes:
        """Return the whole request for the vectors of ``items``."""
        build = _openai_body if self.interface == "openai" else _tei_body
        kind, body = build(self, items)
        return format_request("POST", self.address, self.path, dict(self.headers) | {"Content-Type": kind}, body)

    def vectors(self, body: bytes, count: int) -> Float32Array:
        """Return the vectors of an answer, ``[count, dimensions]``, all finite.

        Raises:
            AnswerError: It holds another number of vectors, of different lengths, or numbers that are not finite.
        """
        try:
            document = json.loads(body)
            rows = _openai_rows(document) if self.interface == "openai" else document
            vectors = np.array(rows, dtype=np.float32)
        except (ValueError, TypeError, KeyError, RecursionError) as exc:
            raise AnswerError(f"the answer holds no vectors ({type(exc).__name__}: {exc}): {body[:80]!r}") from exc
        if vectors.ndim != 2 or len(vectors) != count or not vectors.size:
            raise AnswerError(f"the answer holds an array of shape {vectors.shape} instead of {count} vectors")
        if not np.isfinite(vectors).all():
            raise AnswerError("the answer holds numbers that are not finite")
        return vectors


def make_endpoint(
    url: str,
    *,
    interface: InterfaceName | None = None,
    encoding: Encoding = "float",
    model: str = "",
    headers: Sequence[tuple[str, str]] = (),
) -> Endpoint:
    """Return the endpoint at ``url``, whose path may be complete, or that of the server alone.

    Without ``interface``, a path that ends in ``/embed`` means TEI's, and any other OpenAI's.
    """
    address, path = split_url(url)
    interface = interface or ("tei" if path.endswith(PATHS["tei"]) else "openai")
    if encoding not in get_args(Encoding) or (interface == "tei" and encoding == "base64"):
        raise UsageError(f"--encoding {encoding} is not possible with the interface {interface}")
    suffix = PATHS[interface]
    if interface == "openai" and path.endswith("/v1"):
        suffix = suffix.removeprefix("/v1")
    full = path if path.endswith((PATHS[interface], "/embeddings")) else path + suffix
    return Endpoint(
        address=address, path=full, interface=interface, encoding=encoding, model=model, headers=tuple(headers)
    )


def _openai_body(endpoint: Endpoint, items: Sequence[Item]) -> tuple[str, bytes]:
    content = [item if isinstance(item, str) else _file_object(item) for item in items]
    alone = len(content) == 1 and isinstance(content[0], str)  # as clients send a single text
    document: dict[str, Any] = {"input": content[0] if alone else content, "model": endpoint.model}
    if endpoint.encoding == "base64":
        document["encoding_format"] = "base64"
    return "application/json", json.dumps(document).encode()


def _tei_body(endpoint: Endpoint, items: Sequence[Item]) -> tuple[str, bytes]:
    files = [item for item in items if isinstance(item, Path)]
    if files:
        return f"multipart/form-data; boundary={_BOUNDARY}", _multipart(files)
    return "application/json", json.dumps({"inputs": items, "truncate": True}).encode()


def _multipart(files: Sequence[Path]) -> bytes:
    parts = []
    for file in files:
        head = (
            f'Content-Disposition: form-data; name="files"; filename="{file.name}"\r\nContent-Type: {_media_type(file)}'
        )
        parts.append(f"--{_BOUNDARY}\r\n{head}\r\n\r\n".encode() + file.read_bytes() + b"\r\n")
    return b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()


def _file_object(file: Path) -> dict[str, str]:
    """Return an image or a mesh as this project's server takes it in OpenAI's interface."""
    media_type = _media_type(file)
    url = f"data:{media_type};base64,{base64.b64encode(file.read_bytes()).decode()}"
    return {"mesh" if media_type in MESH_SUFFIXES else "image": url}


def _media_type(file: Path) -> str:
    meshes = (media_type for media_type, suffix in MESH_SUFFIXES.items() if suffix == file.suffix.lower())
    return next(meshes, None) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"


def _openai_rows(document: Any) -> list[Any]:
    """Return the vectors in the order of the items, which ``index`` gives."""
    rows: list[Any] = [None] * len(document["data"])
    for entry in document["data"]:
        if not 0 <= entry["index"] < len(rows) or rows[entry["index"]] is not None:
            raise ValueError(f"index {entry['index']} is too large, or occurs twice")
        rows[entry["index"]] = _row(entry["embedding"])
    return rows


def _row(value: Any) -> Any:
    return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4") if isinstance(value, str) else value
