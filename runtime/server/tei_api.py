"""The interface of text-embeddings-inference: ``/embed``, ``/similarity``, ``/tokenize`` and ``/info``.

Its clients name no model, so the first one answers unless a field ``model`` names another one. Source: https://huggingface.github.io/text-embeddings-inference
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tokenizers import Encoding

from runtime.artifact.manifest import TextPreprocessing
from runtime.artifact.similarity import similarities
from runtime.preprocess.item import UnusableItemError
from runtime.server.admission import Ticket
from runtime.server.body import check_fields, read_digits, read_json, require_field, take_field
from runtime.server.call import read_call, read_model
from runtime.server.endpoint import Endpoint, json_response
from runtime.server.items import ServerItem, check_count, read_file, read_item, read_items
from runtime.server.request_errors import RequestError
from runtime.server.served_model import ServedModel
from runtime.server.service import Embedded, EmbeddingService
from runtime.version import __version__

_FLAGS = ("normalize", "truncate")
_OPTIONS = ("truncate", "truncation_direction", "prompt_name", "dimensions", "model")
_EMBED_FIELDS = ("inputs", "normalize", "encoding_format", *_OPTIONS)
_TOKEN_BYTES = 500  # of a token as a dictionary; a text may have as many tokens as bytes


def routes() -> list[Route]:
    """Return the routes. ``POST /`` is where huggingface_hub's client sends texts."""
    return [
        Route("/", Endpoint(_embed), methods=["POST"]),
        Route("/embed", Endpoint(_embed), methods=["POST"]),
        Route("/similarity", Endpoint(_similarity), methods=["POST"]),
        Route("/tokenize", Endpoint(_tokenize), methods=["POST"]),
        Route("/info", _info, methods=["GET"]),
    ]


async def _embed(service: EmbeddingService, request: Request, raw: bytes, ticket: Ticket) -> Response:
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        body, items = await _read_form(request.headers, raw, service.settings.max_items)
    else:
        body = read_json(raw, ticket)
        items = read_items(require_field(body, "inputs"), "inputs", service.settings.max_items)
    check_fields(body, *_EMBED_FIELDS)
    if take_field(body, "encoding_format", str, "float") != "float":  # a field of huggingface_hub's client
        raise RequestError(
            400, "encoding_format must be float here; /v1/embeddings has base64", param="encoding_format"
        )
    call = read_call(service, body, items, param="inputs", normalize=True)
    _check_direction(call.model, body)
    embedded = await service.embed(call, ticket)
    return json_response(service, np.ascontiguousarray(embedded.vectors), embedded)


async def _similarity(service: EmbeddingService, request: Request, raw: bytes, ticket: Ticket) -> Response:
    """Answer with the cosine similarity of one text to each of several."""
    body = read_json(raw, ticket)
    check_fields(body, "inputs", "parameters")
    inputs = require_field(body, "inputs")
    if not isinstance(inputs, dict):
        raise RequestError(400, "inputs must be an object with source_sentence and sentences", param="inputs")
    check_fields(inputs, "source_sentence", "sentences")
    source = read_item(require_field(inputs, "source_sentence"), "source_sentence")
    items = [*read_items(require_field(inputs, "sentences"), "sentences", service.settings.max_items), source]
    options = take_field(body, "parameters", dict) or {}
    check_fields(options, *_OPTIONS)
    call = read_call(service, options, items, param="sentences", last="source_sentence", normalize=False)
    _check_direction(call.model, options)
    embedded: Embedded = await service.embed(call, ticket)
    return json_response(service, similarities(embedded.vectors[-1:], embedded.vectors[:-1])[0], embedded)


def _check_direction(model: ServedModel, fields: Mapping[str, Any]) -> None:
    """Refuse to cut texts at another end than the model was exported for."""
    direction, recipe = take_field(fields, "truncation_direction", str), _text_preprocessing(model)
    if direction is None or recipe is None:
        return
    if direction.lower() not in ("left", "right"):
        raise RequestError(400, "truncation_direction must be Left or Right", param="truncation_direction")
    if direction.lower() != recipe.truncation_side:
        message = f"the model cuts texts on the {recipe.truncation_side}; leave truncation_direction out"
        raise RequestError(400, message, param="truncation_direction")


def _text_preprocessing(model: ServedModel) -> TextPreprocessing | None:
    recipe = model.manifest.towers["text"].preprocessing if "text" in model.towers else None
    return recipe if isinstance(recipe, TextPreprocessing) else None


class _FormParser(MultiPartParser):
    """A parser that counts the items, and takes text in UTF-8 only: Starlette's reads any other as Latin-1."""

    max_items, item_count = 0, 0

    def on_part_end(self) -> None:
        """Check a part, and add it to the others."""
        part = self._current_part
        if self._charset != "utf-8":
            raise MultiPartException("its charset must be UTF-8")
        if part.file is None:
            part.data.decode()
        if part.file is not None or part.field_name == "inputs":
            self.item_count += 1
            check_count(self.item_count, self.max_items, "inputs")
        super().on_part_end()


async def _read_form(headers: Headers, raw: bytes, max_items: int) -> tuple[dict[str, Any], list[ServerItem]]:
    """Return the fields and the files of a form. Its texts are fields called ``inputs``."""

    async def stream() -> Any:
        yield raw

    parser = _FormParser(headers, stream(), max_files=math.inf, max_fields=max_items + len(_EMBED_FIELDS))
    parser.max_items = max_items
    parser.spool_max_size = len(raw) + 1  # never a file on the disk
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError, KeyError) as exc:
        raise RequestError(400, f"the form cannot be read: {exc}") from exc
    body: dict[str, Any] = {}
    items: list[ServerItem] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            items.append(read_file(await value.read(), value.filename or "", value.content_type or ""))
        elif name == "inputs":
            items.append(read_item(value, "inputs"))
        elif name in body:
            raise RequestError(400, f"the field {name!r:.80} is there more than once", param=name[:80])
        else:
            body[name] = _form_value(name, value)
    await form.close()
    if not items:
        raise RequestError(400, "the form has neither files nor fields called inputs", param="inputs")
    return body, items


def _form_value(name: str, value: str) -> Any:
    if name in _FLAGS and value in ("true", "false"):
        return value == "true"
    number = read_digits(value) if name == "dimensions" else None
    return value if number is None else number


async def _tokenize(service: EmbeddingService, request: Request, raw: bytes, ticket: Ticket) -> Response:
    """Answer with all tokens of each text, also of a text that is too long to embed."""
    body = read_json(raw, ticket)
    check_fields(body, "inputs", "add_special_tokens", "prompt_name", "model")
    model, prompt = read_model(service, body)
    recipe = _text_preprocessing(model)
    if recipe is None:
        raise RequestError(400, f"{model.name} embeds no texts, so it has no tokenizer")
    inputs = require_field(body, "inputs")
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise RequestError(400, "inputs must be a string or a list of strings", param="inputs")
    check_count(len(texts), service.settings.max_items, "inputs")
    special = bool(take_field(body, "add_special_tokens", bool, recipe.add_special_tokens))
    ticket.take(size_bytes=_TOKEN_BYTES * (len(raw) + len(texts) * len(prompt.encode(errors="replace"))))
    answer = await asyncio.to_thread(_tokenize_all, model, [prompt + text for text in texts], special)
    return json_response(service, answer)


def _tokenize_all(model: ServedModel, texts: list[str], special: bool) -> list[list[dict[str, Any]]]:
    try:
        tokenized = model.towers["text"].text_preprocessor.tokenize(texts, add_special_tokens=special)
    except UnusableItemError as exc:
        raise RequestError(400, str(exc), param="inputs") from exc
    return [_describe_tokens(text, encoding) for text, encoding in tokenized]


def _describe_tokens(text: str, encoding: Encoding) -> list[dict[str, Any]]:
    """Return tokens as text-embeddings-inference does: only those of the text have a place, and their part of it."""
    columns = zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
    return [
        {"id": number, "text": token, "special": True, "start": None, "stop": None}
        if special
        else {"id": number, "text": text[start:stop], "special": False, "start": start, "stop": stop}
        for number, token, special, (start, stop) in columns
    ]


async def _info(request: Request) -> Response:
    service: EmbeddingService = request.app.state.service
    model, _ = service.find_model(None)
    settings, embedder = service.settings, model.embedder
    content = {
        "model_id": model.name,
        "model_sha": model.manifest.sha256,
        "model_dtype": embedder.variant,
        "model_type": {"embedding": {"pooling": next(iter(embedder.loaded_towers().values())).pooling.method}},
        "max_concurrent_requests": None,
        "max_input_length": model.max_length,
        "max_batch_tokens": next(iter(model.runners.values())).limit().budget,
        "max_client_batch_size": settings.max_items,
        "auto_truncate": settings.truncate == "count",
        "tokenization_workers": embedder.threads,
        "version": __version__,
        "models": {
            each.name: {
                "towers": list(each.towers),
                "dimensions": each.manifest.output_dim,
                "prompts": list(each.aliases),
                "provider": each.embedder.provider,
                "variant": each.embedder.variant,
                "vector_space": each.embedder.space,
                "similarity_function": each.manifest.similarity_function,
            }
            for each in service.models.values()
        },
    }
    return json_response(service, content)
