"""The HTTP connection of uvicorn, with limits on the head of a request and on the time that it may take."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from runtime.server.request_errors import RequestError
from runtime.server.settings import ServerSettings

_MAX_HEAD_BYTES = 32 << 10  # of a request's line and headers
_LAST_REQUEST_S = 0.2  # for a request that is on its way when the server stops
ABORT = "runtime.abort"  # extension of the ASGI scope: a function that cuts the connection off


class _StagedTransport:
    """A transport that closes in two stages while the client still sends, so that it can read the answer.

    A socket that is closed while bytes lie in it unread resets the connection, and the client loses the answer.

    Source: https://www.rfc-editor.org/rfc/rfc9112#section-9.6
    """

    def __init__(self, transport: asyncio.Transport, connection: LimitedConnection) -> None:
        self._transport, self._connection, self.lingers = transport, connection, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.lingers or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self.is_closing():  # uvicorn goes on with a pipelined request when the connection is gone
            self._transport.write(data)

    def close(self) -> None:
        if self.is_closing():
            return
        if self._connection.is_in_head:
            self._transport.close()
            return
        self.lingers = True
        self._transport.write_eof()
        self._connection.linger()


class _Parser(httptools.HttpRequestParser):
    """A parser that goes on after a request that asks for another protocol: httptools skips its body, and stops."""

    def __init__(self, connection: LimitedConnection) -> None:
        super().__init__(connection)
        self._connection = connection
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def feed_data(self, data: Any) -> None:
        parser, rest = self, memoryview(data)
        while rest:
            try:
                return super(_Parser, parser).feed_data(rest)
            except httptools.HttpParserUpgrade as exc:
                if parser.get_method() == b"CONNECT":
                    raise
                rest = rest[exc.args[0] :]
            parser = self._connection.begin_again()
        return None


class LimitedConnection(HttpToolsProtocol):
    """A connection that is cut off if a request's line and headers are too large, or do not arrive in time.

    uvicorn has neither limit. A body has limits of its own, in :mod:`runtime.server.body`.

    Attributes:
        is_in_head: Whether the next bytes belong to a head, not to a body or to a head that was refused.
    """

    settings = ServerSettings()

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        """Make the connection as uvicorn does."""
        super().__init__(*arguments, **keywords)
        self.parser = _Parser(self)
        self._head_bytes, self.is_in_head, self._is_stopping = 0, True, False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.transport: Any = _StagedTransport(transport, self)
        self._deadline = self.loop.call_later(self.settings.client_seconds, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the deadline."""
        self._end_deadline()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Take no more than one request, which may be on its way. The rest of a refused body may never come."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and not self.is_in_head:
            self.transport.abort()
        elif is_idle and not self._is_stopping:
            self._is_stopping = True
            self.loop.call_later(_LAST_REQUEST_S, self.shutdown)
        elif not (is_idle and self._has_unread_bytes()):
            super().shutdown()

    def linger(self) -> None:
        """Drop what the client still sends, until it closes the connection or its time is over."""
        self.flow.resume_reading()
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.settings.client_seconds, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Take bytes, and begin a deadline if they end within a head."""
        if self.transport.lingers:
            return
        if self.is_in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self.is_in_head or not self._head_bytes or self.transport.is_closing():
            return
        if self._head_bytes > _MAX_HEAD_BYTES:
            self.send_400_response("")
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.settings.client_seconds, self.transport.abort)

    def begin_again(self) -> _Parser:
        """Read the head that asks for another protocol as one that does not: the server speaks no other.

        Java's client asks for HTTP/2 in this way by default. All that follows the head is for the parser that is
        returned.

        Source: https://www.rfc-editor.org/rfc/rfc9110#section-7.8
        """
        version = self.parser.get_http_version().encode()
        head = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        head += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = parser = _Parser(self)
        parser.feed_data(b"\r\n".join([*head, b"", b""]))
        return parser

    def _asks_for_upgrade(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.is_in_head, self._head_bytes = True, max(1, self._head_bytes)

    def on_headers_complete(self) -> None:
        """End the head, and the deadline of it. The application can cut the connection off."""
        if self._asks_for_upgrade():
            return
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > _MAX_HEAD_BYTES:
            self._head_bytes = size
            raise ValueError("the head is too large")  # ends the parser, and calls ``send_400_response``
        self.is_in_head, self._head_bytes = False, 0
        self._end_deadline()
        super().on_headers_complete()
        self.cycle.keep_alive &= not self._is_stopping
        self.scope["extensions"] = {ABORT: {"abort": partial(self._abort, self.cycle)}}

    def on_message_complete(self) -> None:
        """Wait for the next head. The deadline of a body that was not read becomes that of an idle connection."""
        if self._asks_for_upgrade():
            return
        super().on_message_complete()
        self.is_in_head = True
        if self._deadline is not None:  # uvicorn's own deadline ended with the first byte of that body
            self._end_deadline()
            self._deadline = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def on_response_complete(self) -> None:
        """Give the client a deadline for the rest of a body that is not read: uvicorn's own ends with its next byte."""
        super().on_response_complete()
        if not self.is_in_head and self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.settings.client_seconds, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request in our envelope, and close the connection."""
        error = RequestError(400, "the request is not valid HTTP")
        if self._head_bytes > _MAX_HEAD_BYTES:
            error = RequestError(431, f"the headers have more than {_MAX_HEAD_BYTES} bytes")
        path = self.url.decode("ascii", "replace") if getattr(self, "url", None) else ""
        body = json.dumps(error.envelope(path)).encode()
        status = HTTPStatus(error.status)
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.is_in_head = False
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, also if its client has not read all of a response."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        elif not self._has_unread_bytes():
            super().timeout_keep_alive_handler()

    def _has_unread_bytes(self) -> bool:
        """Return whether the system has bytes that a busy loop did not read yet: a request that must be answered."""
        ours = self.transport.get_extra_info("socket")
        with suppress(OSError), socket.fromfd(ours.fileno(), ours.family, ours.type) as same:
            same.setblocking(False)
            return bool(same.recv(1, socket.MSG_PEEK))
        return False

    def _abort(self, cycle: RequestResponseCycle) -> None:
        cycle.disconnected = True  # uvicorn sets it late, and only for the last request of a pipeline
        self.transport.abort()

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
