"""Join a Ray cluster, or start one for a single job and end it, without Ray's own output."""

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

from runtime.errors import ClusterError, UsageError, needs_extra, one_line
from runtime.machine.threads import available_threads
from runtime.session.providers import find_provider
from runtime.whole_number import is_whole

_STORE_BYTES = 100 * 2**20  # Ray requires 75 MB; only shards and their results pass through it, no vectors
_MAX_THREADS = 4  # with more CPUs, more sessions are faster than more threads per session
_LOG = logging.getLogger("runtime")
RAY_THREAD = "ray_listen_error_messages"  # prints in spite of log_to_driver=False
_SECONDS_TO_ANSWER = 10.0
_SECONDS_TO_END = 5.0
_SECONDS_BETWEEN_CHECKS = 10.0
_LOST = "does not answer; if that lasts a minute, Ray ends this job without a message: start both again"
_WAY_OUT = "`ray status`, or start a cluster on this machine with --address local"
_TOKENS = "if the cluster uses tokens, copy ~/.ray/auth_token here and set RAY_AUTH_MODE=token"
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DEDUP_LOGS": "0"}


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Cluster settings. ``None`` means: choose automatically.

    Attributes:
        address: Address of the cluster; ``local``: a new cluster on this machine; ``None``: the address in
            ``RAY_ADDRESS``, or ``local``.
        workers: Number of workers, each with a session; ``None``: as many as the cluster has room for.
        threads: Threads of each worker; ``None``: up to 4, or as many as fit if ``workers`` is given.
        provider: Execution provider of the workers. ``cuda`` and ``tensorrt`` give each worker a GPU; ``auto`` does so
            if the cluster has any.
    """

    address: str | None = None
    workers: int | None = None
    threads: int | None = None
    provider: str = "auto"

    def __post_init__(self) -> None:
        """Raise a :class:`UsageError` if ``workers`` or ``threads`` is below 1."""
        for name, value in (("workers", self.workers), ("threads", self.threads)):
            if value is not None and not is_whole(value, 1):
                raise UsageError(f"{name} is {value!r}, it must be a whole number from 1 up")


@dataclass(frozen=True, kw_only=True)
class WorkerResources:
    """The number of workers, the CPUs of each, which are the threads of its session, and the GPUs of each, 0 or 1."""

    workers: int
    threads: int
    gpus: int


@contextmanager
def open_cluster(options: ClusterOptions) -> Iterator[WorkerResources]:
    """Join or start a cluster, and leave it at the end. A started cluster ends with all its processes.

    A Ray that the caller has initialized is used and stays as it is.

    Raises:
        MissingDependencyError: Ray is not installed.
        ClusterError: The cluster cannot be started or joined, or has too few CPUs or GPUs for the workers.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield assign_resources(options, _nodes(ray))
        return
    with contextlib.redirect_stdout(cast("TextIO", QuietStdout(sys.stdout))):
        try:
            _connect(ray, options)
            with watch_head(ray.get_runtime_context().gcs_address):
                yield assign_resources(options, _nodes(ray))
        finally:
            started = _started_processes(ray)
            ray.shutdown()
            _wait_for_end(started)


@contextmanager
def watch_head(address: str) -> Iterator[None]:
    """Warn once if the head of the cluster does not answer. After a minute Ray ends the process, without a message."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_SECONDS_BETWEEN_CHECKS):
            try:
                check_address(address)
            except ClusterError:
                if not ended.is_set():
                    _LOG.warning("the head of the Ray cluster, %s, %s", address, _LOST)
                return

    threading.Thread(target=watch, name="watch_head", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


class QuietStdout:
    """Standard output without the messages of Ray's thread about lost workers, which go to the log."""

    def __init__(self, stream: Any) -> None:
        """Wrap ``stream``."""
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write ``text``, or log it if the thread is Ray's."""
        if threading.current_thread().name != RAY_THREAD:
            return int(self._stream.write(text))
        if text.strip():
            _LOG.debug("%s", text.strip())
        return len(text)


def import_ray() -> Any:
    """Import and return ``ray``, including ``ray.data`` and its dependency pyarrow.

    Raises:
        MissingDependencyError: One of them is not installed.
    """
    with needs_extra("ray", "a job on Ray"):
        import pyarrow as pa  # noqa: F401
        import ray
        import ray.data
    return ray


def _connect(ray: Any, options: ClusterOptions) -> None:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    check_address(address)
    arguments = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        cpus = max(available_threads(), options.workers or 1)
        arguments |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    try:
        with _without_side_effects():
            ray.init(address=address, **arguments)
    except Exception as exc:  # Ray raises bare ones, too
        raise ClusterError(
            f"the Ray cluster {address!r} cannot be {'started' if address == 'local' else 'joined'} "
            f"({one_line(exc):.300}); see {'its logs in /tmp/ray' if address == 'local' else f'{_WAY_OUT}; {_TOKENS}'}"
        ) from exc


def _started_processes(ray: Any) -> list[Any]:
    """Return the processes of a cluster that ray.init started here; none if it joined a cluster."""
    import psutil  # a dependency of Ray

    home, found = str(Path(ray.__file__).parent), []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any(word.startswith(home) for word in child.cmdline()):
                found += [child, *child.children(recursive=True)]
    return found


def _wait_for_end(processes: list[Any]) -> None:
    """Wait for processes, then kill the rest. Ray's workers take a while to notice that their cluster is gone."""
    import psutil

    for process in psutil.wait_procs(processes, timeout=_SECONDS_TO_END)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()


def check_address(address: str) -> None:
    """Check that a cluster answers at ``host:port``. Without an answer, ray.init would try for minutes.

    Raises:
        UsageError: The address is one of Ray Client.
        ClusterError: Nothing answers.
    """
    if "://" in address:
        raise UsageError(
            f"the address {address!r} is Ray Client's, which Ray Data does not support; run this on a machine of the "
            "cluster with --address auto, or submit it with `ray job submit`"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as exc:
        raise ClusterError(f"no Ray cluster answers at {address} ({exc}); see {_WAY_OUT}") from exc


@contextmanager
def _without_side_effects() -> Iterator[None]:
    """Keep the handler of SIGTERM, which ray.init replaces, and suppress a message about RAY_BACKEND_LOG_LEVEL."""
    handler = signal.getsignal(signal.SIGTERM)
    sys.stderr.flush()
    stderr, silence = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silence, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(silence)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _nodes(ray: Any) -> list[tuple[int, int]]:
    """Return the CPUs and GPUs of each machine."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(resources.get("CPU", 0)), int(resources.get("GPU", 0))) for resources in alive]


def assign_resources(options: ClusterOptions, nodes: list[tuple[int, int]]) -> WorkerResources:
    """Return the resources of the workers. ``nodes`` are the CPUs and GPUs of each machine.

    Raises:
        ClusterError: The machines have too few CPUs or GPUs. Ray itself would wait without end.
        UsageError: There is no such provider.
    """
    is_auto = options.provider == "auto"
    gpus = int(any(owned for _, owned in nodes) if is_auto else find_provider(options.provider).device == "cuda")
    usable = [(cpus, owned) for cpus, owned in nodes if cpus and owned >= gpus]
    if not usable:
        missing, way_out = ("GPU", "use --provider cpu") if gpus else ("CPU", "add one")
        found = f"none of the cluster's {len(nodes)} machines has a {missing} for a worker"
        raise ClusterError(f"{found}; {way_out}, or see `ray status`")
    threads = options.threads or _threads_per_worker(options.workers, gpus, usable)
    slots = sum(min(cpus // threads, owned if gpus else cpus) for cpus, owned in usable)
    workers = options.workers or max(1, slots)
    if workers > slots:
        asked = f"{workers} workers of {threads} threads{' and a GPU' if gpus else ''} each"
        way_out = "ask for fewer, or add machines before the job"
        raise ClusterError(f"{asked} do not fit: the cluster has room for {slots}; {way_out}")
    return WorkerResources(workers=workers, threads=threads, gpus=gpus)


def _threads_per_worker(workers: int | None, gpus: int, nodes: list[tuple[int, int]]) -> int:
    """Return the threads of a worker: a share of its GPU's CPUs, or as many as fit if ``workers`` is given."""
    if workers is None or gpus:
        return max(1, min(_MAX_THREADS, *(cpus // owned if gpus else cpus for cpus, owned in nodes)))
    cpus = [owned for owned, _ in nodes]
    return max((n for n in range(1, max(cpus) + 1) if sum(count // n for count in cpus) >= workers), default=1)
