"""What happens around every request: its id, its key, its line in the log, its metrics, and slow readers."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.datastructures import URL, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.server.auth import Keys
from runtime.server.metrics import Metrics
from runtime.server.request_errors import ClientGoneError, RequestError

LOG = logging.getLogger("runtime.server")
_SAFE_ID = re.compile(rb"[A-Za-z0-9_.:/+=-]{1,128}")
_CLIENT_CLOSED = 499  # nginx's status of a request whose client hung up


def relative_location(asked: str, location: str) -> str:
    """Return ``location`` relative to the path that was ``asked`` for, from which it differs in slashes at the end.

    Starlette, which redirects to it, knows neither the scheme nor the prefix of a proxy.
    """
    url = URL(location)
    before, _, last = url.path.rpartition("/")
    slashes = len(asked) - len(asked.rstrip("/"))
    path = "../" * slashes + last if last else before.rpartition("/")[2] + "/"
    return str(url.replace(scheme="", netloc="", path=path))


def route_path(scope: Scope) -> str:
    """Return the path of a request as the routes have it: without the prefix under which the application is served.

    Source: ``get_route_path`` in https://github.com/Kludex/starlette/blob/main/starlette/_utils.py
    """
    path: str = scope["path"]
    rest = path.removeprefix(scope.get("root_path", "")) or "/"
    return rest if rest.startswith("/") else path


class RequestMiddleware:
    """Give a request an id, check its key, log and count it, and answer if the application fails."""

    def __init__(self, app: ASGIApp, *, keys: Keys, metrics: Metrics, route_of: Callable[[str], str]) -> None:
        """Wrap ``app``. ``route_of`` returns the route of a path for logs and metrics."""
        self._app, self._keys, self._metrics, self._route_of = app, keys, metrics, route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id", b""))
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = MutableHeaders(scope=message)
                sent["x-request-id"] = request_id
                if "location" in sent:
                    sent["location"] = relative_location(scope["path"], sent["location"])
            await send(message)

        try:
            self._keys.check(scope["method"], route_path(scope), headers.get(b"authorization", b""))
            await self._app(scope, receive, send_with_id)
        except ClientGoneError:
            status = _CLIENT_CLOSED
        except Exception as exc:
            error = (
                exc if isinstance(exc, RequestError) else RequestError(500, "the server failed; its log has the reason")
            )
            if error is not exc:
                LOG.exception("failure", extra={"fields": {"request_id": request_id}})
            if status:
                raise
            response = JSONResponse(error.envelope(route_path(scope)), error.status, error.headers())
            await response(scope, receive, send_with_id)
        finally:
            self._record(scope, status or _CLIENT_CLOSED, time.perf_counter() - started, request_id)

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        path = self._route_of(route_path(scope))
        self._metrics.requests.labels(path, str(status)).inc()
        if status < 300:
            self._metrics.success.labels(path).inc()
            if scope["method"] == "POST":  # not a page or a probe, which would hide how long embedding takes
                self._metrics.duration.observe(seconds)
        elif status >= 400:
            self._metrics.failure.labels(str(status)).inc()
        fields = {"request_id": request_id, "method": scope["method"], "path": path, "status": status}
        LOG.info("request", extra={"fields": {**fields, "ms": round(1000 * seconds, 2)}})


def _request_id(given: bytes) -> str:
    return given.decode() if _SAFE_ID.fullmatch(given) else uuid.uuid4().hex


class JsonFormatter(logging.Formatter):
    """Write each record as one line of JSON. Texts of clients are in none of them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "pid": record.process,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
