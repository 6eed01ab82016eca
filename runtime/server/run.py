"""Load the models, make them ready, and serve them until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from PIL import Image

from runtime.errors import SpaceError, UsageError
from runtime.loading.load import load
from runtime.machine.limits import allow_open_files, read_resident_bytes
from runtime.preprocess.mesh import placement
from runtime.server.app import build_app
from runtime.server.connection import LimitedConnection
from runtime.server.metrics import Metrics
from runtime.server.middleware import LOG, JsonFormatter
from runtime.server.served_model import ServedModel, make_ready, serve_model
from runtime.server.service import EmbeddingService, count_lanes
from runtime.server.settings import ServerJob, ServerSettings

_DEFAULT_ROOM = 1 << 30  # bytes of all requests, if the memory of the machine is unknown
_SHARE = 0.9  # of the memory limit; the rest is for what nobody counts
_MAX_PLACED_TRIANGLES = 4_000_000  # of a scene that repeats its meshes
# Longer than the pools of usual clients and proxies, so that they close a connection first: Go has 90 s, Caddy 120 s,
# and Google's load balancers 600 s. Source: https://docs.cloud.google.com/load-balancing/docs/https
_KEEP_ALIVE_S = 620
_POLL_S = 0.1  # between two looks for a second signal
_ANSWER_S = 1.0  # for the errors of requests that are ended; clients that do not take theirs are cut off
_BACKSTOP_S = 5  # after the drain, if a request still does not end


def open_models(artifacts: Mapping[str, Path], settings: ServerSettings, **options: Any) -> list[ServedModel]:
    """Load artifacts by name, and check hashes, golden vectors and the largest batch of each.

    ``options`` are those of :func:`runtime.load`.

    Raises:
        EmbeddingBackbonesError: An artifact cannot be loaded, or does not reproduce its golden vectors here.
    """
    models = [
        serve_model(load(folder, **options), name, folder, settings.max_batch_tokens)
        for name, folder in artifacts.items()
    ]
    lanes = count_lanes(models)
    for model, folder in zip(models, artifacts.values(), strict=True):
        make_ready(model, folder, lanes)
    return models


def load_service(job: ServerJob) -> EmbeddingService:
    """Load the models of a job, and return their service. Its requests may use the memory that the models leave.

    Raises:
        EmbeddingBackbonesError: An artifact cannot be served, see :func:`open_models`.
        SpaceError: An artifact embeds in another space than where the server began.
        UsageError: The memory limit leaves no room for requests.
    """
    prepare_process(job.settings)
    models = open_models(job.artifacts, job.settings, **job.session)
    for model in models:
        _check_space(model, job)
    return EmbeddingService(models, job.settings, Metrics(), room_bytes=_room(job.settings))


def _check_space(model: ServedModel, job: ServerJob) -> None:
    space = model.embedder.space
    began = job.spaces.get(model.name, space)
    if space != began:
        raise SpaceError(
            f"{model.name} embeds in {space} here ({model.embedder.variant}), and in {began} where the server began: "
            f"{job.artifacts[model.name]} has changed, or `auto` chose another graph; restart the server, or name "
            "the variant"
        )


def _room(settings: ServerSettings) -> int:
    limit = settings.memory_bytes()
    if limit is None:
        return _DEFAULT_ROOM
    resident = read_resident_bytes()
    room = int(_SHARE * limit) - resident
    if room < settings.max_body_bytes // 8:
        raise UsageError(
            f"the memory limit of {limit >> 20} MiB leaves no room for requests: the models take {resident >> 20} MiB; "
            "raise --memory-limit, serve fewer models, or hold their weights once with --concurrent-batches 1"
        )
    return room


class DrainingServer(uvicorn.Server):
    """A server that answers what is in flight after SIGTERM or Ctrl-C, and then ends without an error."""

    def __init__(self, config: uvicorn.Config, service: EmbeddingService) -> None:
        """Serve ``config``, whose application uses ``service``."""
        super().__init__(config)
        self._service, self._is_urgent = service, False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop. A second signal ends the requests in flight.

        As a signal handler it may interrupt any line, so it only sets flags.
        """
        self._is_urgent = self.should_exit
        self._service.draining = self.should_exit = True

    async def startup(self, sockets: Any = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        self.announce()

    def announce(self) -> None:
        """Log the address."""
        for server in self.servers:
            for each in server.sockets:
                host, port = each.getsockname()[:2]
                LOG.info("ready", extra={"fields": {"host": host, "port": port, "models": list(self._service.models)}})

    async def shutdown(self, sockets: Any = None) -> None:
        """Wait for requests in flight. Those that outlast the drain, or a second signal, get an error."""
        ending = asyncio.create_task(self._end_requests())
        try:
            await self._accept_last()
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _accept_last(self) -> None:
        """Stop to listen, but take the connections that wait in the queue of the system: it would reset them."""
        loop, taken = asyncio.get_running_loop(), list[socket.socket]()
        for server in self.servers:
            for each in server.sockets:
                with suppress(OSError), socket.fromfd(each.fileno(), each.family, each.type) as listening:
                    listening.setblocking(False)
                    while len(taken) < self.config.backlog:
                        taken.append(listening.accept()[0])
            server.close()
        for each in taken:
            each.setblocking(False)
            await loop.connect_accepted_socket(self._connect, each)

    def _connect(self) -> asyncio.Protocol:
        connection: type[Any] = self.config.http_protocol_class
        made: asyncio.Protocol = connection(self.config, self.server_state, self.lifespan.state)
        return made

    async def _end_requests(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._service.settings.drain_seconds
        while loop.time() < end and not self._is_urgent:
            await asyncio.sleep(_POLL_S)
        self._service.abort()
        await asyncio.sleep(_ANSWER_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def build_server(service: EmbeddingService) -> DrainingServer:
    """Return the server of a service. Its method ``run`` serves until SIGTERM or Ctrl-C."""
    return DrainingServer(configure_server(service), service)


def configure_server(service: EmbeddingService) -> uvicorn.Config:
    """Return the configuration of a server."""
    settings = service.settings
    return uvicorn.Config(
        build_app(service),
        host=settings.host,
        port=settings.port,
        http=type("Connection", (LimitedConnection,), {"settings": settings}),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.drain_seconds + _BACKSTOP_S),
    )


def configure_logs() -> None:
    """Write records of the server as JSON on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("runtime").setLevel(logging.INFO)


def prepare_process(settings: ServerSettings) -> None:
    """Set what the whole process shares, before models are loaded."""
    Image.MAX_IMAGE_PIXELS = settings.max_image_pixels
    placement.MAX_PLACED_TRIANGLES = _MAX_PLACED_TRIANGLES
    allow_open_files()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the server has threads of its own
