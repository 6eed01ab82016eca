"""Admit requests by the tokens and bytes that they need, so that memory and waiting times stay bounded."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import TracebackType
from typing import Self

from runtime.server.request_errors import RequestError

_LONGEST_RETRY_S = 60


class Admission:
    """The requests that may be in the server at once. All calls come from the thread of the event loop.

    Attributes:
        tokens: Tokens of the requests that were admitted.
        size_bytes: Bytes of the requests that were admitted: bodies, rows and responses.
    """

    def __init__(self, *, max_tokens: int, max_bytes: int, tokens_per_s: Callable[[], float]) -> None:
        """Admit up to ``max_tokens`` and ``max_bytes``. ``tokens_per_s`` returns the rate at which tokens leave."""
        self.max_tokens, self.max_bytes, self._tokens_per_s = max_tokens, max_bytes, tokens_per_s
        self.tokens, self.size_bytes = 0, 0

    def enter(self) -> Ticket:
        """Return the ticket of a request that needs nothing yet."""
        return Ticket(self)

    def retry_after_s(self) -> int:
        """Return the seconds after which half of what was admitted will have left."""
        rate = self._tokens_per_s()
        return min(_LONGEST_RETRY_S, math.ceil(self.tokens / 2 / rate)) if rate else 1


class Ticket:
    """The share of an :class:`Admission` that one request has. As a context manager, it gives all back at the end."""

    def __init__(self, admission: Admission) -> None:
        """Begin with nothing."""
        self._admission, self.tokens, self.size_bytes = admission, 0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self._admission.tokens -= self.tokens
        self._admission.size_bytes -= self.size_bytes
        self.tokens = self.size_bytes = 0

    def take(self, *, tokens: int = 0, size_bytes: int = 0) -> None:
        """Take more.

        Raises:
            RequestError: There is no room now (429), or there never is for a request of this size (413).
        """
        admission = self._admission
        for what, taken, limit, used in (
            ("tokens", self.tokens + tokens, admission.max_tokens, admission.tokens + tokens),
            ("bytes of memory", self.size_bytes + size_bytes, admission.max_bytes, admission.size_bytes + size_bytes),
        ):
            if taken > limit:
                raise RequestError(
                    413, f"the request needs {taken} {what}, and the server takes {limit}; send fewer items"
                )
            if used > limit:
                raise RequestError(
                    429,
                    f"the server is full: {used} of {limit} {what} with this request; try again later",
                    code="overloaded",
                    retry_after_s=max(1, admission.retry_after_s()),
                )
        self.tokens += tokens
        self.size_bytes += size_bytes
        admission.tokens += tokens
        admission.size_bytes += size_bytes
