"""Errors that a client sees, and their envelopes in each of the three interfaces."""

from __future__ import annotations

from typing import Any

_OPENAI_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "unsupported_media_type",
    431: "too_large",
    429: "overloaded",
    500: "internal_error",
    501: "not_installed",
    503: "unavailable",
}


class RequestError(Exception):
    """A request that cannot be answered.

    Attributes:
        status: The status code of HTTP.
        code: A word for programs.
        param: The field of the request that is wrong, if it is one.
        retry_after_s: Seconds after which the client may try again, if that helps.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        """Make a problem whose ``message`` says what failed and what to do."""
        self.status, self.code, self.param = status, code or _CODES.get(status, "error"), param
        self.retry_after_s = retry_after_s
        super().__init__(message.encode("utf-8", "backslashreplace").decode())

    def headers(self) -> dict[str, str]:
        """Return the headers of the response."""
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}

    def envelope(self, path: str) -> dict[str, Any]:
        """Return the body of the response, in the form of the interface that ``path`` belongs to."""
        if path.startswith("/v2"):
            return {"error": str(self)}
        if path.startswith("/v1"):
            kind = "server_error" if self.status >= 500 else _OPENAI_TYPES.get(self.status, "invalid_request_error")
            return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}
        kind = "Overloaded" if self.status == 429 else "Backend" if self.status >= 500 else "Validation"
        return {"error": str(self), "error_type": kind}


class ClientGoneError(Exception):
    """The client hung up or was cut off, so nobody waits for the response."""
