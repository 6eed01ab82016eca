"""One of several processes of a server. It obeys the pipe of its supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection

import uvicorn

from runtime.server import run
from runtime.server.listening import LISTEN, bind
from runtime.server.metrics import METRICS_FOLDER
from runtime.server.middleware import LOG
from runtime.server.request_errors import RequestError
from runtime.server.service import EmbeddingService
from runtime.server.settings import ServerJob

_TICKS = 10


def serve(job: ServerJob, pipe: Connection) -> int:
    """Load a job, serve it from when the supervisor says so until it says so or is gone, and return the exit code."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the supervisor gets it, too
    servers, may_listen = list[WorkerServer](), threading.Event()
    threading.Thread(target=_obey, args=(pipe, servers, may_listen), daemon=True).start()
    run.configure_logs()
    service = run.load_service(job)
    pipe.send_bytes(json.dumps(service.spaces).encode())
    may_listen.wait()
    servers.append(WorkerServer(run.configure_server(service), service, pipe))
    servers[0].run(bind(job.settings.host, job.settings.port))
    return 0


class WorkerServer(run.DrainingServer):
    """A server that its supervisor stops."""

    def __init__(self, config: uvicorn.Config, service: EmbeddingService, pipe: Connection) -> None:
        """Serve ``config``, whose application uses ``service``, for the supervisor at the end of ``pipe``."""
        super().__init__(config, service)
        self._pipe = pipe
        self._report: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    def announce(self) -> None:
        """Tell the supervisor that the worker is ready."""
        LOG.info("worker ready")
        self._pipe.send_bytes(b"ready")

    async def on_tick(self, counter: int) -> bool:
        """Report to the supervisor each second; uvicorn calls this ten times a second."""
        if counter % _TICKS == 0 and (self._report is None or self._report.done()):
            self._report = asyncio.create_task(self.report())
        return await super().on_tick(counter)

    async def report(self) -> None:
        """Tell the supervisor that the event loop runs and the models embed. It replaces a worker that is silent."""
        try:
            await self._service.health.check()
        except RequestError as exc:
            LOG.error("model fails", extra={"fields": {"reason": str(exc)}})
            return
        with contextlib.suppress(OSError):  # the supervisor is gone, and the other thread ends the server
            self._pipe.send_bytes(b"alive")


def _obey(pipe: Connection, servers: list[WorkerServer], may_listen: threading.Event) -> None:
    """Stop at each message but the first, to listen. The end of the pipe means that the supervisor is gone."""
    is_open = True
    while is_open:
        try:
            if pipe.recv_bytes() == LISTEN:
                may_listen.set()
                continue
        except (EOFError, OSError):
            is_open = False
            shutil.rmtree(os.environ[METRICS_FOLDER], ignore_errors=True)  # the supervisor was killed before it could
        if not servers:  # it does not listen yet, so nobody waits for an answer
            os._exit(0)
        if is_open or not servers[0].should_exit:
            servers[0].handle_exit(signal.SIGTERM, None)
