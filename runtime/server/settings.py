"""Settings of the server."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from runtime.errors import UsageError
from runtime.machine.limits import examine_memory
from runtime.whole_number import is_whole

Truncate = Literal["count", "error"]
# A browser writes an origin in lower case, and without the usual port of its scheme.
_ORIGIN = re.compile(
    r"(?!http://.*:80$|https://.*:443$)[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
)


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How the server listens, what it admits, and how it treats requests.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 for a free one.
        truncate: ``error`` refuses a text that is too long, ``count`` cuts and reports it.
        max_wait_ms: How long an item waits for others to fill its batch.
        max_batch_tokens: Maximum padded tokens of a batch of texts; ``None`` for the runtime's default.
        max_queue_tokens: Maximum tokens of all requests that wait or run.
        max_items: Maximum items of a request.
        max_body_bytes: Maximum bytes of a request's body.
        max_image_pixels: Maximum pixels of an image.
        memory_limit: Bytes of memory that the process may use; ``None`` for the limit of the container, or of the host.
        client_seconds: Seconds that a client has to send a request, and to take a response.
        drain_seconds: Seconds that requests in flight have to end after SIGTERM.
        hang_seconds: Seconds after which a worker process that stands still, or whose model fails, is replaced.
        api_keys: Keys of which a client must have one; empty for no authentication.
        cors_origins: Origins of web pages that may call the server, as ``SCHEME://HOST[:PORT]``; ``*`` for all.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    truncate: Truncate = "error"
    max_wait_ms: float = 0
    max_batch_tokens: int | None = None
    max_queue_tokens: int = 1 << 18
    max_items: int = 2048
    max_body_bytes: int = 32 << 20
    max_image_pixels: int = 1 << 25
    memory_limit: int | None = None
    client_seconds: float = 60
    drain_seconds: float = 30
    hang_seconds: float = 30
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    cors_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise :class:`UsageError` if a value is out of range."""
        if self.truncate not in get_args(Truncate):
            raise UsageError(f"truncate is {self.truncate!r}, it must be {' or '.join(get_args(Truncate))}")
        for name in ("api_keys", "cors_origins"):
            if isinstance(getattr(self, name), str):
                raise UsageError(f"{name} is one string; give a list")
        if any(not key or key != key.strip() for key in self.api_keys):
            raise UsageError("an API key is empty, or has a space at its end; give another one")
        if not is_whole(self.port, 0, 65535):
            raise UsageError(f"port is {self.port!r}, it must be a whole number from 0 to 65535")
        at_least_one = ("max_batch_tokens", "max_queue_tokens", "max_items", "max_body_bytes", "memory_limit")
        for name in (*at_least_one, "max_image_pixels"):
            value = getattr(self, name)
            if value is not None and not is_whole(value, 1):
                raise UsageError(f"{name} is {value!r}, it must be a whole number from 1 up")
        self._check_times()
        self._check_origins()

    def memory_bytes(self) -> int | None:
        """Return the bytes of memory that the process may use; ``None`` if neither the system nor the user says."""
        memory = examine_memory()
        return self.memory_limit or memory.limit or memory.total

    def _check_times(self) -> None:
        longest = threading.TIMEOUT_MAX  # Python can wait no longer
        for name in ("client_seconds", "drain_seconds", "hang_seconds", "max_wait_ms"):
            value = getattr(self, name)
            if not 0 <= value <= longest:
                raise UsageError(f"{name} is {value}, it must be a number from 0 to {longest:.0f}")
        if self.client_seconds == 0:
            raise UsageError("client_seconds is 0, which cuts off every client; give a number above 0")
        if self.hang_seconds < 5:
            raise UsageError(f"hang_seconds is {self.hang_seconds}, it must be at least 5: a report may take 4 seconds")

    def _check_origins(self) -> None:
        for origin in self.cors_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise UsageError(
                    f"cors_origins has {origin!r:.80}, which no browser sends; give * or SCHEME://HOST[:PORT], in "
                    "lower case, without a path, a slash at the end, or the usual port of the scheme"
                )


@dataclass(frozen=True, kw_only=True)
class ServerJob:
    """The work of one process of the server.

    Attributes:
        artifacts: Folders of the artifacts by the names that clients know.
        settings: Settings of the server.
        session: Keyword arguments of :func:`runtime.load`.
        spaces: Vector spaces in which artifacts must embed, by name, as in earlier processes of the server.
    """

    artifacts: Mapping[str, Path]
    settings: ServerSettings
    session: Mapping[str, Any]
    spaces: Mapping[str, str] = field(default_factory=dict)
