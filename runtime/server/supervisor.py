"""Run several processes of one server on one port: start them, restart those that die, and end them all.

A worker obeys its pipe, and no signal. So it does not matter whether Ctrl-C or a service manager signals the supervisor
alone or all of its processes. A worker whose supervisor is gone reads the end of its pipe, and ends, too.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from runtime.errors import EmbeddingBackbonesError, UsageError
from runtime.inference.workers import cannot_start
from runtime.server.listening import LISTEN, bind
from runtime.server.metrics import METRICS_FOLDER
from runtime.server.settings import ServerJob
from runtime.session.session import SessionOptions
from runtime.whole_number import is_whole

_LOG = logging.getLogger("runtime.server")
_POLL_S = 0.2
_PATIENCE_S = 10  # beyond the time to drain, before a worker is killed
_LONGEST_DELAY_S = 30.0  # between two starts of a worker that fails again and again


def divide(job: ServerJob, workers: int) -> ServerJob:
    """Return the share of each worker: of the threads, of the memory, and of the tokens that may wait.

    Raises:
        UsageError: ``workers`` is below 1, or the system cannot deal out connections.
    """
    if not is_whole(workers, 1):
        raise UsageError(f"workers is {workers!r}, it must be a whole number from 1 up")
    if sys.platform != "linux":
        raise UsageError("workers share a port on Linux only; start servers on several ports behind a proxy")
    limit = job.settings.memory_bytes()
    batches = job.session.get("concurrent_batches")
    asked = SessionOptions(threads=job.session.get("threads"), concurrent_batches=batches).resolved()
    share = asked.with_threads(max(1, (asked.threads or 1) // workers))
    return replace(
        job,
        settings=replace(
            job.settings,
            memory_limit=limit and limit // workers,
            max_queue_tokens=max(1, job.settings.max_queue_tokens // workers),
        ),
        session={**job.session, "threads": share.threads, "concurrent_batches": share.concurrent_batches},
    )


class Worker:
    """A process of the server.

    Attributes:
        pipe: Gives the spaces of the models when the worker has loaded them, then a message when it listens and each
            second. It ends when the worker is dead.
        loaded: Whether the worker has loaded the models.
        may_listen: Whether the worker was told to listen.
        ready: Whether the worker listens.
        told: Number of times that the worker was told to stop.
        silent_s: Seconds since the last message, or since the start.
    """

    def __init__(self, job: ServerJob) -> None:
        """Start the process."""
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=_work, args=(job, theirs))
        self.process.start()
        theirs.close()
        self.loaded, self.may_listen, self.ready, self.told, self.silent_s = False, False, False, 0, 0.0

    def listen(self) -> None:
        """Let the worker listen."""
        self.may_listen = True
        self._send(LISTEN)

    def stop(self) -> None:
        """Let requests in flight end; the second time, end them."""
        self.told += 1
        self._send(b"stop")

    def _send(self, message: bytes) -> None:
        with suppress(OSError):  # it is dead, and the pipe will say so
            self.pipe.send_bytes(message)


def _work(job: ServerJob, pipe: Connection) -> None:
    """Run a worker: the target of its process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all processes
    from runtime import console
    from runtime.server.worker import serve

    sys.exit(console.run(lambda: serve(job, pipe)))


class Supervisor:
    """The processes of one server.

    The first worker starts alone, so that an artifact that cannot be served is reported once, and ends the server. The
    others start together. All listen at the same time: clients keep their connections, so a worker that listens alone
    would get them all.
    """

    def __init__(self, job: ServerJob, workers: int) -> None:
        """Prepare to run ``workers`` processes, each with its share of ``job``."""
        self._job, self._wanted = divide(job, workers), workers
        self._workers: dict[Any, Worker] = {}  # by pipe
        self._signals, self._deadline, self._exit_code = 0, math.inf, 0
        self._is_loadable, self._may_listen, self._is_ready = False, False, False
        self._failures, self._next_start, self._load_s = 0, 0.0, 0.0
        self._last_step = time.monotonic()

    def run(self) -> int:
        """Serve until SIGTERM or Ctrl-C, and return the exit code.

        Raises:
            EmbeddingBackbonesError: The address cannot be used.
        """
        with ExitStack() as stack:
            self._reserve_port(stack)
            stack.callback(self._leave)
            os.environ[METRICS_FOLDER] = stack.enter_context(tempfile.TemporaryDirectory(prefix="metrics-"))
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, self._stop)
            while self._workers or not self._signals:
                self._step()
        return self._exit_code

    def _reserve_port(self, stack: ExitStack) -> None:
        """Bind sockets that never listen, so that the port stays ours while no worker lives."""
        settings = self._job.settings
        try:
            for each in bind(settings.host, settings.port, shared=False):
                each.listen()  # fails if another server listens, which a shared socket would not notice
                each.close()
            reserved = [stack.enter_context(each) for each in bind(settings.host, settings.port)]
        except OSError as exc:
            raise EmbeddingBackbonesError(f"cannot listen on {settings.host}:{settings.port} ({exc})") from exc
        self._job = replace(self._job, settings=replace(settings, port=reserved[0].getsockname()[1]))

    def _leave(self) -> None:
        """Close the pipes, so that no worker stays behind after an error."""
        for pipe in self._workers:
            pipe.close()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self._deadline = min(self._deadline, time.monotonic() + self._job.settings.drain_seconds + _PATIENCE_S)

    def _step(self) -> None:
        while self._may_start():
            self._start()
        for worker in self._workers.values():
            if worker.told < self._signals:
                worker.stop()
            if time.monotonic() > self._deadline:
                worker.process.kill()
        for pipe in wait(list(self._workers), _POLL_S):
            self._hear(self._workers[pipe])
        self._let_listen()
        self._end_silent_workers()

    def _start(self) -> None:
        """Start a worker. If the system cannot start another one, those that serve go on."""
        try:
            worker = Worker(self._job)
        except OSError as exc:
            if not self._is_loadable:
                raise cannot_start(exc) from exc
            self._log("worker cannot start", reason=str(cannot_start(exc)))
            self._wait_longer()
            return
        self._workers[worker.pipe] = worker

    def _let_listen(self) -> None:
        """Let workers listen from when all have loaded, or one has failed to start or keeps the others waiting."""
        loaded = [worker for worker in self._workers.values() if worker.loaded]
        patience_s = self._job.settings.hang_seconds + 2 * self._load_s  # the others load at the same time, so slower
        are_late = any(worker.silent_s > patience_s for worker in loaded)
        self._may_listen |= len(loaded) == self._wanted or self._failures > 0 or are_late
        for worker in loaded:
            if self._may_listen and not worker.may_listen:
                worker.listen()

    def _end_silent_workers(self) -> None:
        """Kill workers that are ready and say nothing. While this process itself stood still, no time counts."""
        now = time.monotonic()
        passed, self._last_step = min(now - self._last_step, 2 * _POLL_S), now
        for worker in self._workers.values():
            worker.silent_s += passed
            if worker.ready and not self._signals and worker.silent_s > self._job.settings.hang_seconds:
                self._log("worker hangs", worker=worker.process.pid, seconds=round(worker.silent_s))
                worker.process.kill()
                worker.silent_s = 0.0

    def _may_start(self) -> bool:
        """Return whether to start a worker: one at a time until one has loaded, and after one has failed to start."""
        is_complete = len(self._workers) >= self._wanted
        loaded = [worker.loaded for worker in self._workers.values()]
        must_wait = not all(loaded) and (self._failures > 0 or not any(loaded))
        return not (self._signals or is_complete or must_wait) and time.monotonic() >= self._next_start

    def _hear(self, worker: Worker) -> None:
        try:
            message = worker.pipe.recv_bytes()
        except (EOFError, OSError):
            self._bury(worker)
            return
        waited_s, worker.silent_s = worker.silent_s, 0.0
        if not worker.loaded:
            self._load_s = self._load_s or waited_s
            worker.loaded = self._is_loadable = True
            self._job = replace(self._job, spaces=json.loads(message))  # later workers must embed in the same ones
            return
        if worker.ready:
            return
        worker.ready, self._failures = True, 0
        if not self._is_ready and sum(each.ready for each in self._workers.values()) == self._wanted:
            self._is_ready = True
            pids = [each.process.pid for each in self._workers.values()]
            self._log("ready", host=self._job.settings.host, port=self._job.settings.port, workers=pids)

    def _bury(self, worker: Worker) -> None:
        del self._workers[worker.pipe]
        worker.pipe.close()
        worker.process.join()
        mark_process_dead(worker.process.pid)
        code = worker.process.exitcode or 0
        if self._signals:
            self._exit_code = self._exit_code or int(worker.ready and code != 0)
            return
        fields: dict[str, Any] = {"worker": worker.process.pid, "exit_code": code}
        if code == -getattr(signal, "SIGBUS", 0):
            folder = tempfile.gettempdir()
            fields["reason"] = f"{folder}, which holds the metrics, is full, or an artifact was changed in place"
        self._log("worker died", **fields)
        if not self._is_loadable:  # it would die again
            self._exit_code = max(1, code)
            self._stop(0, None)
        elif not worker.ready and time.monotonic() >= self._next_start:  # those that started together count once
            self._wait_longer()

    def _wait_longer(self) -> None:
        self._failures += 1
        self._next_start = time.monotonic() + min(_LONGEST_DELAY_S, 2.0**self._failures)

    def _log(self, message: str, **fields: Any) -> None:
        _LOG.info(message, extra={"fields": fields})
