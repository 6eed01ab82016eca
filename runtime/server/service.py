"""Embed the items of a request: prepare them in threads, queue them, and finish their vectors."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np

from runtime.array_types import Array, Float32Array
from runtime.artifact.manifest import PointCloudPreprocessing, TowerName
from runtime.errors import EmbeddingBackbonesError
from runtime.inference.tower import Row, is_truncated
from runtime.postprocess import truncate_and_normalize
from runtime.server.admission import Admission, Ticket
from runtime.server.dispatcher import Dispatcher, ShutDownError
from runtime.server.health import Health
from runtime.server.items import MESH_SUFFIXES, ServerItem
from runtime.server.metrics import Metrics
from runtime.server.preparation import EmbedCall, Preparation
from runtime.server.request_errors import RequestError
from runtime.server.served_model import ServedModel
from runtime.server.settings import ServerSettings

_LOG = logging.getLogger("runtime.server")
_PATIENCE_S = 2.0  # at the end, for the batches of clients that hung up
_PREPARING = 0.5  # share of the room in memory for images that are decoded and texts that are tokenized
_ITEMS: dict[TowerName, str] = {"text": "a text", "image": "an image", "mesh": "a mesh"}
_TOKEN_BYTES = 80  # of a token in memory: its id and type id as Python objects, and as arrays of a batch
_VALUE_BYTES = 4 + 22  # of one value of a vector: as float32, and as text of JSON


class Embedded(NamedTuple):
    """The answer to an :class:`EmbedCall`: vectors ``[items, dim]`` float32, tokens, indices of cut texts, space."""

    vectors: Array
    tokens: int
    truncated: list[int]
    space: str


class EmbeddingService:
    """The models, and all that they share.

    Attributes:
        models: The models by name. The first one is the default.
        admission: The bounds of all requests together.
        dispatcher: The threads that run batches.
        health: Whether the models can embed.
        draining: Whether the server is about to stop.
    """

    def __init__(
        self, models: Sequence[ServedModel], settings: ServerSettings, metrics: Metrics, *, room_bytes: int
    ) -> None:
        """Start the threads. Requests may use ``room_bytes`` of memory together."""
        prepared = int(_PREPARING * room_bytes)
        self.models: Mapping[str, ServedModel] = {model.name: model for model in models}
        self.settings, self.metrics, self.draining = settings, metrics, False
        self.dispatcher = Dispatcher(
            count_lanes(models), max_wait_s=settings.max_wait_ms / 1000, on_batch=metrics.report_batch
        )
        self.health = Health(models, self.dispatcher)
        self.admission = Admission(
            max_tokens=settings.max_queue_tokens,
            max_bytes=room_bytes - prepared,
            tokens_per_s=lambda: self.dispatcher.tokens_per_s,
        )
        metrics.watch("te_queue_size", "Items that wait", lambda: len(self.dispatcher))
        metrics.watch("te_queue_tokens", "Tokens that wait", lambda: self.dispatcher.waiting_tokens)
        metrics.watch("te_admitted_tokens", "Tokens that wait or run", lambda: self.admission.tokens)
        metrics.watch("te_admitted_bytes", "Bytes of all requests", lambda: self.admission.size_bytes)
        self._preparation = Preparation(max(model.embedder.threads for model in models), prepared)

    @property
    def spaces(self) -> dict[str, str]:
        """The vector spaces of the models by name."""
        return {name: model.embedder.space for name, model in self.models.items()}

    def find_model(self, name: str | None) -> tuple[ServedModel, str | None]:
        """Return the model of a name or alias, and the name of the alias's prompt.

        Raises:
            RequestError: There is no such model, or several and ``name`` is ``None``.
        """
        if name is None:
            return next(iter(self.models.values())), None
        if name in self.models:
            return self.models[name], None
        base, colon, prompt = name.rpartition(":")
        model = self.models.get(base)
        if colon and model is not None:
            try:
                model.prompt(prompt)
            except RequestError as exc:
                raise RequestError(404, str(exc), code="model_not_found", param="model") from exc
            return model, prompt
        known = ", ".join(self.models)
        raise RequestError(
            404, f"there is no model {name!r:.80}; known are {known}", code="model_not_found", param="model"
        )

    async def check_ready(self, model: ServedModel | None = None) -> None:
        """Raise :class:`RequestError` if the server is about to stop, or if ``model`` fails; by default, any model."""
        if self.draining:
            raise _stopping()
        await self.health.check(model)

    async def embed(self, call: EmbedCall, ticket: Ticket) -> Embedded:
        """Return the vectors of a call. If the caller is cancelled, its items are dropped.

        Raises:
            RequestError: The request is wrong, or the server is full, stopping, or fails.
        """
        self._check(call)
        model = call.model
        value_bytes = len(call.items) * _VALUE_BYTES * (call.dimensions or model.manifest.output_dim)
        ticket.take(size_bytes=value_bytes + sum(_row_bytes(model, item) for item in call.items))
        started = perf_counter()
        rows = await self._preparation.prepare(call)
        self.metrics.tokenize.observe(perf_counter() - started)
        ticket.take(
            tokens=sum(model.tokens(item.kind, row) for item, row in zip(call.items, rows, strict=True)),
            size_bytes=sum(_TOKEN_BYTES * len(row.ids) for row in rows if not isinstance(row, np.ndarray)),
        )
        vectors = await self._run(call, rows)
        self.metrics.items.inc(len(rows))
        normalize = call.dimensions is not None if call.normalize is None else call.normalize
        return Embedded(
            truncate_and_normalize(vectors, call.dimensions, normalize),
            sum(len(row.ids) for row in rows if not isinstance(row, np.ndarray)),
            [index for index, row in enumerate(rows) if is_truncated(row)],
            model.embedder.space,
        )

    def abort(self) -> None:
        """End all requests with an error: the time to drain is over. It waits for no batch."""
        for model in self.models.values():
            model.cancellation.cancel()
        self.dispatcher.abort()

    def close(self) -> None:
        """End the threads. A batch that takes long is cancelled, and one that hangs is left behind."""
        self._preparation.close()
        if not self.dispatcher.close(_PATIENCE_S):
            self.abort()
            if not self.dispatcher.close(_PATIENCE_S):
                _LOG.error("a batch hangs")

    def _check(self, call: EmbedCall) -> None:
        for index, item in enumerate(call.items):
            if obstacle := _find_obstacle(call, item):
                raise call.refuse(index, obstacle)
        dim = call.model.manifest.output_dim
        if call.dimensions is not None and not 1 <= call.dimensions <= dim:
            raise RequestError(400, f"dimensions is {call.dimensions}, it must be from 1 to {dim}", param="dimensions")

    async def _run(self, call: EmbedCall, rows: Sequence[Row]) -> Array:
        kinds: dict[TowerName, list[int]] = {}
        for at, item in enumerate(call.items):
            kinds.setdefault(item.kind, []).append(at)
        vectors = np.empty((len(rows), call.model.manifest.output_dim), dtype=np.float32)
        jobs = []
        try:
            for kind, positions in kinds.items():
                job = self.dispatcher.submit(call.model.runners[kind], [rows[at] for at in positions])
                jobs.append((positions, job))
            for positions, job in jobs:
                embedded: Float32Array = await asyncio.wrap_future(job.future)
                vectors[positions] = embedded
        except (ShutDownError, EmbeddingBackbonesError) as exc:
            raise self._explain(exc) from exc
        finally:
            for _, job in jobs:
                self.dispatcher.cancel(job)
        return vectors

    def _explain(self, exc: Exception) -> RequestError:
        if self.draining or isinstance(exc, ShutDownError):
            return _stopping()
        return RequestError(500, f"the model fails: {exc}")


def _stopping() -> RequestError:
    return RequestError(503, "the server is stopping; ask another one", retry_after_s=1)


def _find_obstacle(call: EmbedCall, item: ServerItem) -> str | None:
    """Return why a model must not embed an item, and the way out."""
    towers = call.model.towers
    if item.kind not in towers:
        kinds = " and ".join(towers)
        obstacle = f"is {_ITEMS[item.kind]}, and {call.model.name} embeds {kinds}; name a model that embeds it"
        if item.kind == "image" and "mesh" in towers:  # every file that is no mesh counts as an image
            obstacle += f", or give a mesh file one of the extensions {', '.join(MESH_SUFFIXES.values())}"
        return obstacle
    if "image" in towers and item.may_mean_image:
        return (
            'looks like an image, and a string is a text; send {"image": "data:..."} for an image, or {"text": ...} '
            "if it is meant literally; an object needs a JSON body"
        )
    if call.prompt and isinstance(item.content, list):
        return f"are token ids, and the prompt {call.prompt!r:.80} is put before texts only; send the text"
    return None


def count_lanes(models: Sequence[ServedModel]) -> int:
    """Return the number of batches that may run side by side."""
    return max(model.embedder.concurrent_batches for model in models)


def _row_bytes(model: ServedModel, item: ServerItem) -> int:
    """Return the size of an item's row, before it is made; 0 for a text, whose tokens nobody knows yet."""
    if item.kind == "text":
        return 0
    recipe = model.manifest.towers[item.kind].preprocessing
    (spec,) = recipe.graph_inputs()
    size = np.dtype(spec.dtype).itemsize * math.prod(axis for axis in spec.shape if isinstance(axis, int))
    if isinstance(recipe, PointCloudPreprocessing):
        size *= len(item.content) if isinstance(item.content, np.ndarray) else recipe.num_points
    return size
