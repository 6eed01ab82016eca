"""OpenAI's interface: ``/v1/embeddings`` and ``/v1/models``.

Source: https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runtime.array_types import Array
from runtime.server.admission import Ticket
from runtime.server.body import check_fields, read_json, require_field, take_field
from runtime.server.call import read_call
from runtime.server.endpoint import Endpoint, json_response
from runtime.server.items import read_items
from runtime.server.request_errors import RequestError
from runtime.server.service import EmbeddingService


def routes() -> list[Route]:
    """Return the routes."""
    return [
        Route("/v1/embeddings", Endpoint(_embeddings), methods=["POST"]),
        Route("/v1/models", _models, methods=["GET"]),
        Route("/v1/models/{model:path}", _model, methods=["GET"]),
    ]


async def _embeddings(service: EmbeddingService, request: Request, raw: bytes, ticket: Ticket) -> Response:
    body = read_json(raw, ticket)
    check_fields(body, "input", "model", "encoding_format", "dimensions", "prompt_name", "user")
    encoding = take_field(body, "encoding_format", str, "float")
    if encoding not in ("float", "base64"):
        raise RequestError(
            400, f"encoding_format is {encoding!r:.80}, it must be float or base64", param="encoding_format"
        )
    take_field(body, "user", str)
    items = read_items(require_field(body, "input"), "input", service.settings.max_items)
    call = read_call(service, body, items, param="input")
    embedded = await service.embed(call, ticket)
    usage: dict[str, Any] = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
    if embedded.truncated:
        usage["truncated"] = embedded.truncated
    write: Callable[[Array], Any] = _to_base64 if encoding == "base64" else np.ascontiguousarray
    vectors = map(write, embedded.vectors)
    data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    content = {"object": "list", "data": data, "model": body.get("model") or call.model.name, "usage": usage}
    return json_response(service, content, embedded)


def _to_base64(vector: Array) -> str:
    return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode()


async def _models(request: Request) -> Response:
    service: EmbeddingService = request.app.state.service
    names = [name for model in service.models.values() for name in (model.name, *model.aliases)]
    return json_response(service, {"object": "list", "data": [_describe(service, name) for name in names]})


async def _model(request: Request) -> Response:
    service: EmbeddingService = request.app.state.service
    return json_response(service, _describe(service, request.path_params["model"]))


def _describe(service: EmbeddingService, name: str) -> dict[str, Any]:
    model = service.find_model(name)[0]
    owner = model.manifest.weights.description
    standard = {"id": name, "object": "model", "created": 0, "owned_by": owner}
    similarity = model.manifest.similarity_function
    return standard | {"vector_space": model.embedder.space, "similarity_function": similarity}
