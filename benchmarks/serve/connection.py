"""An HTTP/1.1 connection on asyncio's streams. It takes little CPU time, which the server may need."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from runtime.errors import UsageError

_MOST_BYTES = 2**26  # of a line or a piece of an answer
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Value of the header ``Host``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        """Return the address as a URL."""
        return f"{self.scheme}://{self.authority}"


def split_url(url: str) -> tuple[Address, str]:
    """Return the address and the path of ``url``; the path has no slash at its end.

    Raises:
        UsageError: It is no URL of HTTP, or holds a password or a query, which reports would show.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise UsageError(f"{url!r:.200} is not a URL ({exc}); name one such as http://127.0.0.1:8080") from exc
    if parts.scheme not in _PORTS or not parts.hostname:
        raise UsageError(f"{url!r:.200} is not a URL; name one such as http://127.0.0.1:8080")
    if parts.username is not None:
        raise UsageError("a URL must not hold a name and a password; send them with --header")
    if parts.query or parts.fragment:
        raise UsageError("a URL must not have a part after ? or #, which may hold a key; send a key with --header")
    return Address(parts.scheme, parts.hostname, port or _PORTS[parts.scheme]), parts.path.rstrip("/")


class Connection:
    """A connection that is opened when it is first used, and again after the server closed it.

    Attributes:
        resent: Number of requests that were sent once more.
    """

    def __init__(self, address: Address) -> None:
        """Prepare a connection to ``address``."""
        self._address = address
        self.resent = 0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request, and return the status and the body of the answer.

        A server may close a connection that was idle. The request is then sent once more, as browsers do.

        Raises:
            OSError: The server cannot be reached, or closed a fresh connection without an answer.
            EOFError: The answer ends too early.
            ValueError: The answer is not HTTP.
        """
        reused = self._streams is not None
        try:
            return await self._ask(request)
        except (ConnectionError, asyncio.IncompleteReadError) as exc:
            begun = isinstance(exc, asyncio.IncompleteReadError) and exc.partial
            if begun or not reused:
                raise
            self.resent += 1
            return await self._ask(request)

    def close(self) -> None:
        """Close the connection, if it is open."""
        if self._streams is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._streams[1].close()
        self._streams = None

    async def _ask(self, request: bytes) -> tuple[int, bytes]:
        try:
            if self._streams is None:
                self._streams = await self._open()
            reader, writer = self._streams
            writer.write(request)
            await writer.drain()
            status, headers = _read_head(await reader.readuntil(b"\r\n\r\n"))
            body = await _read_body(reader, headers)
        except BaseException:  # a timeout too: what is left of the answer must not be read as the next one
            self.close()
            raise
        if headers.get(b"connection", b"").lower() == b"close":
            self.close()
        return status, body

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        secure = ssl.create_default_context() if self._address.scheme == "https" else None
        return await asyncio.open_connection(self._address.host, self._address.port, ssl=secure, limit=_MOST_BYTES)


async def ask_once(address: Address, request: bytes, timeout_s: float) -> tuple[int, bytes]:
    """Send a request over a connection of its own, as :meth:`Connection.ask` does."""
    connection = Connection(address)
    try:
        async with asyncio.timeout(timeout_s):  # `wait_for` of Python 3.11 can swallow a cancellation
            return await connection.ask(request)
    finally:
        connection.close()


def format_request(method: str, address: Address, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """Return a whole request."""
    lines = [f"{method} {path or '/'} HTTP/1.1", f"Host: {address.authority}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _read_head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    first, *lines = head[:-4].split(b"\r\n")
    version, _, rest = first.partition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise ValueError(f"the answer begins with {first!r:.80}, which is not HTTP/1.1")
    pairs = (line.partition(b":")[::2] for line in lines)
    return int(rest[:3]), {name.lower(): value.strip() for name, value in pairs}


async def _read_body(reader: asyncio.StreamReader, headers: dict[bytes, bytes]) -> bytes:
    if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
        return await _read_chunks(reader)
    if b"content-length" in headers:
        return await reader.readexactly(int(headers[b"content-length"]))
    return await reader.read()


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    chunks = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        chunks.append((await reader.readexactly(size + 2))[:-2])
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # trailers
    return b"".join(chunks)
