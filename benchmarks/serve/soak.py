"""Load a server for long with random requests, hang-ups, overload and killed workers, and check every answer."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import runtime
from benchmarks.measure.cpu_time import resident_bytes
from benchmarks.scenarios.memory_growth import random_batches
from benchmarks.serve.connection import Connection, ask_once, format_request
from benchmarks.serve.interfaces import AnswerError, Endpoint, make_endpoint
from benchmarks.serve.loops import REFUSED
from benchmarks.serve.process import StartedServer, serve_command, split_server_options, start_server
from runtime.arguments import ArgumentParser, number, parse_count, parse_from_0, parse_path, parse_positive
from runtime.array_types import Float32Array
from runtime.artifact.reader import read_manifest
from runtime.artifact.variants import VARIANT_NAMES
from runtime.errors import EmbeddingBackbonesError
from runtime.inference.truncation import without_truncation_warning

_POOL = 256  # different texts
_PAUSE_S = 0.05  # after a refusal, or a lost connection
_SAMPLE_S = 0.5
_FAULTS = ("wrong", "unanswered", "given up")
_OUTCOMES = ("answered", "refused", "hung up", "connection lost", "workers killed", "given up", "unanswered", "wrong")
_WORKER = re.compile(r'process_resident_memory_bytes\{pid="(\d+)"\}')


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m benchmarks soak``."""
    parser = ArgumentParser(
        prog="python -m benchmarks soak",
        description="Serve an artifact, and ask for 1 to 32 texts of random length per request. Each vector is "
        "compared with that of `embed` for the text alone. Clients ask again after a refusal or a lost connection. "
        "The exit code is 1 if a vector was wrong, a request stayed without an answer for --timeout, or the server "
        "ended.",
    )
    add = parser.add_argument
    add("artifact", type=parse_path, metavar="ARTIFACT", help="Folder of a text artifact")
    counts = partial(add, type=parse_count, metavar="N")
    seconds = partial(add, type=parse_positive, metavar="S")
    below_1 = number(float, "a number from 0 to below 1", lambda value: 0 <= value < 1)
    load = parser.add_mutually_exclusive_group().add_argument
    load("--requests", type=parse_count, default=10_000, metavar="N", help="Number of requests (default: %(default)s)")
    load(
        "--seconds",
        type=parse_positive,
        metavar="S",
        help="Load the server for S seconds instead (default: by --requests)",
    )
    counts("--clients", default=64, help="Number of clients (default: %(default)s)")
    counts("--longest", default=64, help="Maximum words per text (default: %(default)s)")
    add("--hang-ups", type=below_1, default=0.0, metavar="SHARE", help="Share of requests to hang up on (default: 0)")
    seconds("--kill-seconds", help="Kill one of --workers every S seconds (default: kill none)")
    seconds("--idle-seconds", type=parse_from_0, default=10.0, help="Idle time before the last row (default: 10)")
    seconds("--timeout", default=60.0, help="Seconds to ask for an answer, refusals included (default: 60)")
    add("--variant", choices=VARIANT_NAMES, default="fp32", help="Variant of the graph (default: %(default)s)")
    add(
        "--tolerance",
        type=parse_from_0,
        default=1e-6,
        metavar="D",
        help="Maximum difference of values (default: 1e-06)",
    )
    add("--server-options", default="", metavar="OPTIONS", help="Options of `python -m runtime serve`, as one word")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the server and print the outcome."""
    return _soak(build_parser().parse_args(arguments))


def _soak(options: argparse.Namespace) -> int:
    words = ["--variant", options.variant, "--truncate", "count", *split_server_options(options.server_options)]
    texts = [text for batch in random_batches(_POOL, options.longest) for text in batch][:_POOL]
    with runtime.load(options.artifact, variant=options.variant) as model, without_truncation_warning():
        alone = model.embed(texts, tower="text", batch_size=1)
    with start_server(serve_command(options.artifact, words)) as server:
        endpoint = make_endpoint(server.url, model=read_manifest(options.artifact).name)
        soak = Soak(options, Pool(texts=texts, vectors=alone), endpoint, server)
        try:
            asyncio.run(soak.run())
        finally:
            print("\n".join(soak.report()), flush=True)
    if faults := soak.faults():
        raise EmbeddingBackbonesError(f"the soak failed: {'; '.join(faults)}")
    return 0


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Texts, and their vectors alone."""

    texts: Sequence[str]
    vectors: Float32Array


class Soak:
    """The clients of one server.

    Attributes:
        server: The server.
        counts: Requests by outcome.
        difference: The largest difference between a vector and that of the text alone.
    """

    def __init__(self, options: argparse.Namespace, pool: Pool, endpoint: Endpoint, server: StartedServer) -> None:
        """Prepare to load the server at ``endpoint``."""
        self._options, self._pool, self._endpoint, self.server = options, pool, endpoint, server
        self.counts: Counter[str] = Counter()
        self.difference = 0.0
        self._begun, self._peak = 0, 0
        self._rows: list[tuple[int, int]] = []  # requests that were answered, and resident bytes

    async def run(self) -> None:
        """Send all requests, then leave the server alone for a while.

        Raises:
            EmbeddingBackbonesError: The server ended, or has no workers to kill.
        """
        self._print("loaded")
        self._start = time.monotonic()
        load = [self._watch(), *([self._kill()] if self._options.kill_seconds else [])]
        await _first_of(self._be_clients(), *load)
        await asyncio.sleep(self._options.idle_seconds)
        self.server.check()
        self._print("idle")

    def faults(self) -> list[str]:
        """Return the reasons for which the server, or the load, has failed."""
        found = [f"{name} {self.counts[name]:,}" for name in _FAULTS if self.counts[name]]
        if not self.counts["answered"]:
            found.append("no answer was checked; raise --requests or --seconds")
        if self._options.kill_seconds and not self.counts["workers killed"]:
            found.append("no worker was killed; lower --kill-seconds, or raise --requests or --seconds")
        return found

    def report(self) -> list[str]:
        """Return the lines of the outcome."""
        counts = self.counts
        half = self._rows[len(self._rows) // 2 :]
        is_long = self._peak > 0 and len({answered for answered, _ in half}) > 2 and not counts["workers killed"]
        slope = f"{_slope(half) * 1000 / 2**20:+.2f}" if is_long else "unknown"
        return [
            f"peak {_mib(self._peak)} MiB; slope of the last half {slope} MiB per 1,000 requests",
            f"{'; '.join(f'{name} {counts[name]:,}' for name in _OUTCOMES)}; largest difference {self.difference:.1e}",
        ]

    def _share(self) -> float:
        """Return the share of the load that is done."""
        if self._options.seconds:
            return float((time.monotonic() - self._start) / self._options.seconds)
        return self._begun / float(self._options.requests)

    async def _be_clients(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for seed in range(self._options.clients):
                tasks.create_task(self._be_client(seed))

    async def _be_client(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        connection = Connection(self._endpoint.address)
        try:
            while self._share() < 1:
                self._begun += 1
                positions = generator.integers(0, len(self._pool.texts), generator.integers(1, 33)).tolist()
                request = self._endpoint.request([self._pool.texts[at] for at in positions])
                if generator.random() < self._options.hang_ups:
                    await self._hang_up(request, float(generator.uniform(0, 0.2)))
                else:
                    await self._ask(connection, request, positions)
        finally:
            self.counts["connection lost"] += connection.resent
            connection.close()

    async def _hang_up(self, request: bytes, after_s: float) -> None:
        with contextlib.suppress(OSError, EOFError):
            await ask_once(self._endpoint.address, request, after_s)
        self.counts["hung up"] += 1

    async def _ask(self, connection: Connection, request: bytes, positions: Sequence[int]) -> None:
        """Ask until there is an answer, and check it. Give up after ``--timeout``."""
        deadline = time.monotonic() + self._options.timeout
        while (left := deadline - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):  # `wait_for` of Python 3.11 can swallow a cancellation
                    status, body = await connection.ask(request)
            except TimeoutError:
                self.counts["unanswered"] += 1
                return
            except (OSError, EOFError):
                self.counts["connection lost"] += 1
            except ValueError as exc:
                self._count_wrong(str(exc))
                return
            else:
                if status not in REFUSED:
                    self._check(status, body, positions)
                    return
                self.counts["refused"] += 1
            await asyncio.sleep(_PAUSE_S)
        self.counts["given up"] += 1

    def _check(self, status: int, body: bytes, positions: Sequence[int]) -> None:
        self.counts["answered"] += 1
        try:
            vectors = self._endpoint.vectors(body, len(positions))
            difference = float(np.abs(vectors - self._pool.vectors[positions]).max()) if status == 200 else np.inf
        except (AnswerError, ValueError):  # no vectors, or of another length
            difference = np.inf
        self.difference = max(self.difference, difference)
        if not difference <= self._options.tolerance:
            self._count_wrong(f"status {status}, difference {difference:.1e}: {body[:200]!r}")

    def _count_wrong(self, reason: str) -> None:
        self.counts["wrong"] += 1
        print(f"wrong: {reason}", file=sys.stderr)

    async def _watch(self) -> None:
        """Sample the memory, print a row for each tenth of the load, and raise an error if the server ends."""
        printed = 0
        while True:
            await asyncio.sleep(_SAMPLE_S)
            self.server.check()
            self._sample()
            if (tenth := int(10 * self._share())) > printed:
                printed = tenth
                self._print(f"{self.counts['answered']:,}")

    async def _kill(self) -> None:
        """Kill one worker after the other, without a warning."""
        while True:
            await asyncio.sleep(self._options.kill_seconds)
            with contextlib.suppress(OSError, EOFError):  # the one that is asked was just killed
                workers = await self._workers()
                os.kill(workers[self.counts["workers killed"] % len(workers)], signal.SIGKILL)
                self.counts["workers killed"] += 1

    async def _workers(self) -> list[int]:
        """Return the process ids of the server's workers."""
        address = self._endpoint.address
        status, page = await ask_once(address, format_request("GET", address, "/metrics", {}), _PAUSE_S * 100)
        workers = [int(pid) for pid in _WORKER.findall(page.decode())]
        if not workers:
            raise EmbeddingBackbonesError(
                f"/metrics names no workers to kill (status {status}); give --server-options '--workers 2'"
            )
        return workers

    def _sample(self) -> int:
        resident = resident_bytes(self.server.pid) or 0
        self._peak = max(self._peak, resident)
        self._rows.append((self.counts["answered"], resident))
        return resident

    def _print(self, name: str) -> None:
        if not self._rows and name == "loaded":
            print(f"{'answered':>10}  resident MiB")
        print(f"{name:>10}  {_mib(self._sample()):>12}", flush=True)


async def _first_of(work: Coroutine[Any, Any, None], *watchers: Coroutine[Any, Any, None]) -> None:
    """Wait for ``work``. Raise the error of a watcher at once; watchers do not end otherwise."""
    tasks = [asyncio.ensure_future(each) for each in (work, *watchers)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _mib(size_bytes: int) -> str:
    """Return a size; 0 is unknown."""
    return f"{size_bytes / 2**20:.0f}" if size_bytes else "unknown"


def _slope(rows: Sequence[tuple[int, int]]) -> float:
    """Return the bytes per request of the straight line through ``rows``."""
    return float(np.polyfit([answered for answered, _ in rows], [resident for _, resident in rows], 1)[0])
