"""A Ray cluster to work on: joined, or started for the one job and ended with it, and without Ray's chatter."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

from runtime.errors import ClusterError, MissingDependencyError, UsageError, one_line
from runtime.machine.threads import available_threads

_STORE_BYTES = 100 * 2**20  # Ray takes no less than 75 MB; pieces and receipts are small, vectors do not pass it
_CPUS_OF_A_WORKER = 4  # beyond which more sessions give more than more threads of one
_LOG = logging.getLogger("runtime")
_RAYS_THREAD = "ray_listen_error_messages"  # log_to_driver=False does not stop it
_SECONDS_TO_ANSWER = 10.0
_SECONDS_TO_END = 5.0
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DEDUP_LOGS": "0"}


@dataclass(frozen=True, kw_only=True)
class Share:
    """What the workers get.

    Attributes:
        workers: Their number, with a session each.
        threads: CPUs of each, and threads of its session.
        gpus: GPUs of each, 1 or 0.
    """

    workers: int
    threads: int
    gpus: int


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks of a cluster, ``None`` for what he leaves to us.

    Attributes:
        address: The cluster's; without one, that in ``RAY_ADDRESS``, or else a cluster of this machine is started.
        workers: Number of sessions.
        threads: Threads of each.
        provider: Execution provider, which tells whether a worker wants a GPU.
    """

    address: str | None
    workers: int | None
    threads: int | None
    provider: str


@contextmanager
def cluster(request: Request) -> Iterator[Share]:
    """Joins or starts a cluster, and leaves it at the end: one that was started ends, with all of its processes.

    A Ray that the caller has initialised is used and left as it is.

    Yields:
        What the workers may have.

    Raises:
        MissingDependencyError: Ray is not installed.
        ClusterError: The cluster cannot be started or joined, or has too little for the workers.
        UsageError: ``workers`` or ``threads`` is below 1.
    """
    for name, value in (("workers", request.workers), ("threads", request.threads)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}, it must be a number from 1 up")
    ray = import_ray()
    if ray.is_initialized():
        yield _share(request, _nodes(ray))
        return
    with contextlib.redirect_stdout(cast("TextIO", _WithoutRay(sys.stdout))):
        try:
            _connect(ray, request)
            yield _share(request, _nodes(ray))
        finally:
            started = _started_processes(ray)
            ray.shutdown()
            _see_end(started)


class _WithoutRay:
    """Standard output, where the thread in which Ray prints every lost worker writes to the log instead."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if threading.current_thread().name != _RAYS_THREAD:
            return int(self._stream.write(text))
        if text.strip():
            _LOG.debug("%s", text.strip())
        return len(text)


def import_ray() -> Any:
    """Imports and returns ``ray``, with its ``ray.data``.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as exc:
        raise MissingDependencyError(
            f"Ray Data cannot be imported ({exc}); run `pip install 'embedding-backbones[ray]'`"
        ) from exc
    return ray


def _connect(ray: Any, request: Request) -> None:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    address = request.address or os.environ.get("RAY_ADDRESS") or "local"
    _check_answers(address)
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        cpus = max(available_threads(), (request.workers or 1) * (request.threads or 1))
        options |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    try:
        with _own_sigterm(), _silent_stderr():
            ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError) as exc:  # ConnectionError of an address where nothing answers is one
        raise ClusterError(
            f"the Ray cluster {address!r} cannot be {'started' if address == 'local' else 'joined'} "
            f"({one_line(exc):.300}); see `ray status`, or leave the address out for a local one"
        ) from exc


def _started_processes(ray: Any) -> list[Any]:
    """Returns the processes of a cluster that ray.init has started here; of one that was joined there are none."""
    import psutil  # Ray brings it

    home, found = str(Path(ray.__file__).parent), []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any(word.startswith(home) for word in child.cmdline()):
                found += [child, *child.children(recursive=True)]
    return found


def _see_end(processes: list[Any]) -> None:
    """Waits for them, and then ends them: Ray's workers only notice by and by that their cluster is gone."""
    import psutil

    for process in psutil.wait_procs(processes, timeout=_SECONDS_TO_END)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _check_answers(address: str) -> None:
    """Knocks at ``host:port``: where nothing answers, ray.init tries for minutes."""
    if "://" in address:
        raise UsageError(
            f"the address {address!r} is Ray Client's, which Ray Data is not made for; run this on a machine of the "
            "cluster with --address auto, or hand it in by `ray job submit`"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as exc:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({exc}); see `ray status`, or leave the address out for a local one"
        ) from exc


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keeps the caller's handler of SIGTERM, which ray.init replaces by one that exits."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keeps Ray's native code from printing, while it starts, that it heeds RAY_BACKEND_LOG_LEVEL."""
    sys.stderr.flush()
    stderr, silence = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silence, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(silence)


def _nodes(ray: Any) -> list[tuple[int, int]]:
    """Returns the CPUs and GPUs of each machine."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(resources.get("CPU", 0)), int(resources.get("GPU", 0))) for resources in alive]


def _share(request: Request, nodes: list[tuple[int, int]]) -> Share:
    gpus = int(request.provider == "cuda" or (request.provider == "auto" and any(gpus for _, gpus in nodes)))
    usable = [(cpus, owned) for cpus, owned in nodes if cpus and owned >= gpus]
    if not usable:
        raise ClusterError(
            f"of the cluster's {len(nodes)} machines none has a {'GPU' if gpus else 'CPU'} for a worker; "
            f"{'take --provider cpu' if gpus else 'add one'}, or see `ray status`"
        )
    threads = request.threads or _threads(request.workers, gpus, usable)
    slots = sum(min(cpus // threads, owned if gpus else cpus) for cpus, owned in usable)
    workers = request.workers or max(1, slots)
    if workers > slots:
        raise ClusterError(
            f"{workers} workers of {threads} threads{' and a GPU' if gpus else ''} each do not fit: the cluster has "
            f"room for {slots}; ask for less, or add machines before the job"
        )
    return Share(workers=workers, threads=threads, gpus=gpus)


def _threads(workers: int | None, gpus: int, nodes: list[tuple[int, int]]) -> int:
    """Returns a worker's share: of its GPU's CPUs, or of all CPUs where the number of workers is given."""
    smallest = min(cpus // owned if gpus else cpus for cpus, owned in nodes)
    if workers is None or gpus:
        return max(1, min(_CPUS_OF_A_WORKER, smallest))
    return max(1, min(smallest, sum(cpus for cpus, _ in nodes) // workers))
