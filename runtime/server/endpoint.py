"""What all endpoints with a body share: a ticket, a client that may hang up, and a response that it may not take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, TypeAlias

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runtime.server.admission import Ticket
from runtime.server.body import read_body
from runtime.server.connection import ABORT
from runtime.server.request_errors import ClientGoneError
from runtime.server.service import Embedded, EmbeddingService

Answer: TypeAlias = Callable[[EmbeddingService, Request, bytes, Ticket], Awaitable[Response]]
_PIECE = 64 << 10  # bytes of a response that are written at once, so that a slow client holds little memory


class Endpoint:
    """An ASGI application for one route. It holds the ticket until the client has taken the response."""

    def __init__(self, answer: Answer) -> None:
        """Answer requests with ``answer``. It is cancelled if the client hangs up."""
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request.

        Raises:
            RequestError: It is refused.
            ClientGoneError: The client hung up, or does not take the response and was cut off.
        """
        request = Request(scope, receive)
        service: EmbeddingService = request.app.state.service
        with service.admission.enter() as ticket:
            body = await read_body(request, ticket, service.settings)
            response = await _while_connected(request, self._answer(service, request, body, ticket))
            await _send(response, scope, send, service.settings.client_seconds)


async def _while_connected(request: Request, answer: Awaitable[Response]) -> Response:
    """Return the response, unless the client hangs up first: after the whole body, that is the only message left."""
    working, hung_up = asyncio.ensure_future(answer), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({working, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        hung_up.cancel()
        working.cancel()


async def _send(response: Response, scope: Scope, send: Send, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
            view = memoryview(response.body)
            for start in range(0, max(1, len(view)), _PIECE):
                more = start + _PIECE < len(view)
                piece = bytes(view[start : start + _PIECE])
                await send({"type": "http.response.body", "body": piece, "more_body": more})
    except TimeoutError as exc:
        abort = scope.get("extensions", {}).get(ABORT)
        if abort is None:
            raise
        abort["abort"]()
        raise ClientGoneError from exc


def json_response(service: EmbeddingService, content: Any, embedded: Embedded | None = None) -> Response:
    """Return ``content`` as JSON; numpy arrays become lists. Headers tell more of ``embedded``."""
    started = perf_counter()
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    service.metrics.serialize.observe(perf_counter() - started)
    return Response(body, headers=embedded_headers(embedded), media_type="application/json")


def embedded_headers(embedded: Embedded | None) -> dict[str, str]:
    """Return the headers with the name of the vector space, and with the number of texts that were cut, if any were."""
    if embedded is None:
        return {}
    return {"x-vector-space": embedded.space} | (
        {"x-truncated": str(len(embedded.truncated))} if embedded.truncated else {}
    )
