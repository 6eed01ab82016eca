"""Read the body of a request within its limits, and the fields of a JSON object."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from starlette.requests import Request

from runtime.preprocess.json_memory import parsed_json_bytes
from runtime.server.admission import Ticket
from runtime.server.request_errors import ClientGoneError, RequestError
from runtime.server.settings import ServerSettings

_COPIES = 3  # of a body in memory: its bytes, the strings in it, and what the preprocessing makes of them
T = TypeVar("T")


async def read_body(request: Request, ticket: Ticket, settings: ServerSettings) -> bytes:
    """Return the body of a request. Its bytes are taken from ``ticket`` before they are read.

    Raises:
        RequestError: The body is too large or too slow, or the server is full.
        ClientGoneError: The client hung up.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, "the body is compressed, and the server reads none of that; send it as it is")
    announced = request.headers.get("content-length")
    if announced is not None:
        size = int(announced.lstrip("0") or 0)  # the HTTP parser has checked that it is a number
        _check_size(size, settings)
        ticket.take(size_bytes=_COPIES * size)
    parts, size = [], 0
    try:
        async with asyncio.timeout(settings.client_seconds):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                part = message.get("body", b"")
                size += len(part)
                if announced is None:
                    _check_size(size, settings)
                    ticket.take(size_bytes=_COPIES * len(part))
                parts.append(part)
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError as exc:
        raise RequestError(408, f"the body did not arrive in {settings.client_seconds:g} s") from exc


def _check_size(size: int, settings: ServerSettings) -> None:
    if size > settings.max_body_bytes:
        raise RequestError(
            413, f"the body has more than {settings.max_body_bytes} bytes, which the server takes at most"
        )


def read_json(body: bytes, ticket: Ticket) -> dict[str, Any]:
    """Return a JSON object. The memory of its values is taken from ``ticket`` before they are made.

    Raises:
        RequestError: The body is not JSON, or another value, or the server is full.
    """
    # Beyond ``_COPIES``: the parser's own copy, which is gone before a string is copied to decode its base64.
    ticket.take(size_bytes=parsed_json_bytes(body) - len(body))
    try:
        document = orjson.loads(body)
    except ValueError as exc:
        raise RequestError(400, f"the body is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise RequestError(400, "the body must be a JSON object")
    return document


def read_digits(text: str) -> int | None:
    """Return the number that up to 19 ASCII digits write; ``None`` for another text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def check_fields(body: Mapping[str, Any], *known: str) -> None:
    """Refuse a field that is not ``known``: a client would believe that it was honoured.

    Raises:
        RequestError: There is one.
    """
    unknown = [name for name in body if name not in known]
    if unknown:
        message = f"the field {unknown[0]!r:.80} is not known here; known are {', '.join(known)}"
        raise RequestError(400, message, param=unknown[0][:80])


def take_field(body: Mapping[str, Any], name: str, kind: type[T], default: T | None = None) -> T | None:
    """Return a field of the type ``kind``; ``default`` if it is missing or null.

    Raises:
        RequestError: The field has another type.
    """
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not kind:  # a bool is no int here
        words = {str: "a string", int: "a whole number", bool: "true or false", dict: "an object", list: "a list"}
        raise RequestError(400, f"{name} must be {words[kind]}", param=name)
    return value


def require_field(body: Mapping[str, Any], name: str) -> Any:
    """Return a field that must be there.

    Raises:
        RequestError: It is missing or null.
    """
    if body.get(name) is None:
        raise RequestError(400, f"{name} is missing", param=name)
    return body[name]
