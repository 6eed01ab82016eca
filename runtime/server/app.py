"""The application: all routes, and how errors become responses."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from runtime.server import kserve_api, openai_api, tei_api
from runtime.server.auth import Keys
from runtime.server.endpoint import json_response
from runtime.server.metrics import CONTENT_TYPE, Metrics
from runtime.server.middleware import RequestMiddleware, route_path
from runtime.server.openapi import describe_api
from runtime.server.request_errors import RequestError
from runtime.server.service import EmbeddingService

_REFRESH_S = 1
_PAGES = Path(__file__).parent / "pages"
# The pages take nothing from elsewhere, and no other page may show them in a frame.
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
# Headers of responses that pages of other origins may read.
_EXPOSED = ("x-truncated", "x-vector-space", "x-request-id", "retry-after", "inference-header-content-length")


def build_app(service: EmbeddingService) -> ASGIApp:
    """Return the ASGI application. It closes ``service`` at the end."""
    settings = service.settings

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        refreshing = asyncio.create_task(_refresh(service.metrics)) if service.metrics.shared else None
        yield
        if refreshing is not None:
            refreshing.cancel()
        service.close()

    routes = [*openai_api.routes(), *tei_api.routes(), *kserve_api.routes(), *_own_routes()]
    keys, metrics = Keys(settings.api_keys), service.metrics
    middleware = [Middleware(RequestMiddleware, keys=keys, metrics=metrics, route_of=partial(_route_of, routes))]
    if settings.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
        middleware.insert(0, cors)
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={RequestError: _answer_request_error, HTTPException: _answer_http_error},
        lifespan=lifespan,
    )
    app.state.service = service
    return _trace(app)


async def _refresh(metrics: Metrics) -> None:
    """Write the current values for the pages of other workers."""
    while True:
        metrics.refresh()
        await asyncio.sleep(_REFRESH_S)


def _route_of(routes: Sequence[Route], path: str) -> str:
    """Return the path of a route. Paths without a route share one name, so that strangers cannot make metrics grow."""
    return next((route.path_format for route in routes if route.path_regex.match(path)), "other")


def _own_routes() -> list[Route]:
    return [
        Route("/", _page("index.html"), methods=["GET"]),
        Route("/docs", _page("docs.html"), methods=["GET"]),
        Route("/openapi.json", _openapi, methods=["GET"]),
        Route("/health", _health, methods=["GET"]),
        Route("/metrics", _metrics, methods=["GET"]),
    ]


def _page(name: str) -> Callable[[Request], Awaitable[Response]]:
    head, page = ((_PAGES / each).read_text("utf-8") for each in ("head.html", name))
    content = page.replace("{head}\n", head)

    async def show(request: Request) -> Response:
        return HTMLResponse(content, headers=_PAGE_HEADERS)

    return show


async def _openapi(request: Request) -> Response:
    prefix = request.scope.get("root_path", "")
    servers = {"servers": [{"url": prefix}]} if prefix else {}
    return json_response(request.app.state.service, describe_api() | servers)


async def _health(request: Request) -> Response:
    await request.app.state.service.check_ready()
    return Response()


async def _metrics(request: Request) -> Response:
    return Response(request.app.state.service.metrics.render(), media_type=CONTENT_TYPE)


async def _answer_request_error(request: Request, exc: Exception) -> Response:
    if not isinstance(exc, RequestError):
        raise exc
    return JSONResponse(exc.envelope(route_path(request.scope)), exc.status, exc.headers())


async def _answer_http_error(request: Request, exc: Exception) -> Response:
    """Answer in our envelope what Starlette refuses: an unknown path, or another method."""
    if not isinstance(exc, HTTPException):
        raise exc
    message = f"{exc.detail}: {request.method} {request.url.path:.200}; GET /docs lists all paths"
    error = RequestError(exc.status_code, message)
    return JSONResponse(error.envelope(route_path(request.scope)), exc.status_code, dict(exc.headers or {}))


def _trace(app: ASGIApp) -> ASGIApp:
    """Let OpenTelemetry see the requests if its package for ASGI is installed."""
    try:
        found = importlib.util.find_spec("opentelemetry.instrumentation.asgi")
    except ModuleNotFoundError:
        found = None
    if found is None:
        return app
    module = importlib.import_module("opentelemetry.instrumentation.asgi")
    traced: ASGIApp = module.OpenTelemetryMiddleware(app)
    return traced
