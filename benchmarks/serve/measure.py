"""Measure servers. All take turns at each load, round by round: a change of the machine's speed meets them all."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.measure.cpu_time import cpu_seconds, read_cpu_time, resident_bytes
from benchmarks.results.statistics import ENOUGH_FOR_P99
from benchmarks.serve.analysis import Curve, Level, curve_of
from benchmarks.serve.connection import Connection
from benchmarks.serve.interfaces import AnswerError, Endpoint
from benchmarks.serve.loops import LoopOptions, Sample, run_loop
from benchmarks.serve.offline import OfflineEmbedder
from benchmarks.serve.schema import Load, ServeResults
from benchmarks.serve.workloads import ServeWorkload
from runtime.array_types import Float32Array
from runtime.errors import EmbeddingBackbonesError

# Rates of an open loop as shares of the throughput of the best closed loop; above 1 a queue grows.
SHARES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1)
_ANOTHER_ITEM = 0.9  # a smaller cosine similarity to an item's vector alone is no rounding, even in 8 bits
_ALONE = 32  # items of a workload that are embedded alone first, to compare with their vectors under load


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server to measure."""

    name: str
    endpoint: Endpoint
    pid: int | None  # of its process on this machine.
    check: Callable[[], None] = lambda: None  # raises an error if a process that we started has ended.


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """The loads to measure."""

    sizes: tuple[int, ...]  # items per request.
    clients: tuple[int, ...]  # of closed loops.
    rates: tuple[float, ...] | None  # requests per second of open loops; `None` finds them.
    refinements: int  # loads to add between the highest sustained rate and the next one.
    rounds: int
    seconds: float
    warm_up_s: float
    timeout_s: float
    max_p99_ms: float | None


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Vectors of items that were embedded alone."""

    alone: dict[int, Float32Array]  # of the server itself, by position of the item.
    reference: dict[int, Float32Array]  # of the reference artifact; empty without one.


class ServerError(EmbeddingBackbonesError):
    """A server gives no vectors."""


def embed_alone(server: Server, workload: ServeWorkload, count: int, timeout_s: float) -> dict[int, Float32Array]:
    """Return the vectors of the first items, each asked for alone, by position.

    Raises:
        ServerError: The server cannot be reached, or answers with something else.
    """
    return asyncio.run(_embed_alone(server, workload, min(count, len(workload.items)), timeout_s))


async def _embed_alone(
    server: Server, workload: ServeWorkload, count: int, timeout_s: float
) -> dict[int, Float32Array]:
    connection = Connection(server.endpoint.address)
    vectors = {}
    try:
        for position in range(count):
            request = server.endpoint.request([workload.items[position]])
            status, body = await asyncio.wait_for(connection.ask(request), timeout_s)
            if status != 200:
                raise ServerError(f"{server.name} answers with status {status}: {body[:300].decode(errors='replace')}")
            vectors[position] = server.endpoint.vectors(body, 1)[0]
    except TimeoutError:
        raise ServerError(f"{server.name} gave no answer within {timeout_s:g} s; raise --timeout") from None
    except (OSError, EOFError, ValueError, AnswerError) as exc:
        raise ServerError(f"{server.name} at {server.endpoint.address} gives no vectors ({exc})") from exc
    finally:
        connection.close()
    return vectors


class Measurement:
    """The loads that were measured so far."""

    def __init__(
        self,
        plan: LoadPlan,
        servers: Sequence[Server],
        results: ServeResults,
        *,
        offline: OfflineEmbedder | None = None,
        reference: Callable[[ServeWorkload, int], dict[int, Float32Array]] = lambda workload, count: {},
        on_load: Callable[[ServeResults, str], None] = lambda results, name: None,
    ) -> None:
        """Prepare to add loads to ``results``.

        Args:
            plan: The loads.
            servers: The servers, which take turns.
            results: Results to add to.
            offline: Process without a server, which takes turns with the closed loops.
            reference: Function that returns reference vectors of the first items of a workload.
            on_load: Function that is called after each load with the results so far and the name of the load.
        """
        self._plan = plan
        self._servers = servers
        self.results = results
        self._offline = offline
        self._reference = reference
        self._on_load = on_load

    def measure(self, workload: ServeWorkload) -> None:
        """Measure all loads of a workload."""
        reference = self._reference(workload, _ALONE)
        expected = {
            server.name: Expected(
                alone=embed_alone(server, workload, _ALONE, self._plan.timeout_s), reference=reference
            )
            for server in self._servers
        }
        for size in self._plan.sizes:
            for number in range(self._plan.rounds):
                if self._offline is not None:
                    load = self._offline.measure(workload, size, self._plan.seconds)
                    self._add(replace(load, round=number), f"{load.server}, {workload.name}")
                for clients in self._plan.clients:
                    for server in self._servers:
                        self._run(server, workload, size, number, expected, clients=clients)
            rates = {server: self._rates(server, workload, size) for server in self._servers}
            for number in range(self._plan.rounds):
                for step in range(max(map(len, rates.values()))):
                    for server, own in rates.items():
                        if step < len(own):
                            self._run(server, workload, size, number, expected, rate=own[step])
            self._refine(workload, size, expected)

    def _refine(self, workload: ServeWorkload, size: int, expected: dict[str, Expected]) -> None:
        """Add rates around the highest one that each server sustains."""
        for _ in range(self._plan.refinements):
            rates = {server: self._next_rate(server, workload, size) for server in self._servers}
            for number in range(self._plan.rounds):
                for server, rate in rates.items():
                    if rate is not None:
                        self._run(server, workload, size, number, expected, rate=rate)

    def _rates(self, server: Server, workload: ServeWorkload, size: int) -> tuple[float, ...]:
        if self._plan.rates is not None:
            return self._plan.rates
        closed = self._curve(server, workload, size).closed
        best = max(level.requests_per_s for level in closed)
        return tuple(dict.fromkeys(whole_rate(share * best, self._plan.seconds) for share in SHARES)) if best else ()

    def _next_rate(self, server: Server, workload: ServeWorkload, size: int) -> float | None:
        plan = self._plan
        judged = {level.load.rate or 0.0: self._is_good(level) for level in self._curve(server, workload, size).open}
        middle = next_rate([(rate, is_good) for rate, is_good in judged.items() if is_good is not None])
        rate = None if middle is None else whole_rate(middle, plan.seconds)
        has_p99 = rate is not None and rate * plan.seconds * plan.rounds >= ENOUGH_FOR_P99
        return None if rate in judged or (plan.max_p99_ms is not None and not has_p99) else rate

    def _is_good(self, level: Level) -> bool | None:
        """Tell whether a rate is one to report; ``None`` with too few requests to tell."""
        bound = self._plan.max_p99_ms
        return level.sustained if bound is None else level.within(bound)

    def _curve(self, server: Server, workload: ServeWorkload, size: int) -> Curve:
        return curve_of(self.results.loads, server.name, workload.name, size)

    def _run(
        self,
        server: Server,
        workload: ServeWorkload,
        size: int,
        number: int,
        expected: dict[str, Expected],
        *,
        clients: int | None = None,
        rate: float | None = None,
    ) -> None:
        plan = self._plan
        options = LoopOptions(
            seconds=plan.seconds,
            warm_up_s=plan.warm_up_s,
            timeout_s=plan.timeout_s,
            clients=clients,
            rate=rate,
            seed=number,
        )
        load = measure_load(server, workload, size, options, expected[server.name])
        server.check()
        level = f"{clients} clients" if rate is None else f"{rate:g} requests/s"
        self._add(replace(load, round=number), f"{server.name}, {workload.name} x {size}, {level}, round {number + 1}")

    def _add(self, load: Load, name: str) -> None:
        self.results = replace(self.results, loads=(*self.results.loads, load))
        self._on_load(self.results, name)


def measure_load(server: Server, workload: ServeWorkload, size: int, options: LoopOptions, expected: Expected) -> Load:
    """Send the items of a workload, ``size`` per request, check the answers and return the figures."""
    batches = workload.batches(size)
    requests = [server.endpoint.request([workload.items[position] for position in batch]) for batch in batches]
    meter = _Meter(server.pid)
    found = asyncio.run(
        run_loop(
            options,
            requests,
            lambda: Connection(server.endpoint.address),
            on_start=meter.start,
            on_end=meter.end,
        )
    )
    check = AnswerCheck(server.endpoint, batches, expected)
    samples = [check(sample) for sample in found.samples]
    wrong = sum(sample.outcome == "wrong" and 0 <= sample.end_s < options.seconds for sample in samples)
    lateness = [sample.begun_s - sample.due_s for sample in samples]
    return Load(
        server=server.name,
        workload=workload.name,
        items=size,
        clients=options.clients,
        rate=options.rate,
        round=0,
        seconds=options.seconds,
        completed=found.completed - wrong,
        latency_s=tuple(round(sample.latency_s, 6) for sample in samples if sample.outcome == "ok"),
        failures=dict(Counter(f"{s.outcome}: {s.reason}" for s in samples if s.outcome != "ok")),
        late_s=float(np.percentile(lateness, 99)) if lateness else 0.0,
        generator_cpu=meter.generator_s / options.seconds,
        server_cpu_s=meter.server_s,
        server_bytes=meter.server_bytes,
        stolen=meter.stolen,
        checked=check.checked,
        max_difference=check.max_difference,
        min_cosine=check.min_cosine,
    )


class AnswerCheck:
    """Check the vectors of answers, after the measurement, and compare them with those of items alone."""

    def __init__(self, endpoint: Endpoint, batches: Sequence[tuple[int, ...]], expected: Expected) -> None:
        """Prepare to check answers to requests with the items at the positions ``batches``."""
        self._endpoint = endpoint
        self._batches = batches
        self._expected = expected
        self._dimensions = len(next(iter(expected.alone.values())))
        self.checked = 0
        self.max_difference: float | None = None
        self.min_cosine: float | None = None

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample without its body, and with the outcome ``wrong`` if its vectors are no answer."""
        if sample.body is None:
            return sample
        bare = replace(sample, body=None)
        positions = self._batches[sample.number % len(self._batches)]
        self.checked += 1
        try:
            vectors = self._endpoint.vectors(sample.body, len(positions))
        except AnswerError as exc:
            return replace(bare, outcome="wrong", reason=str(exc)[:80])
        if vectors.shape[1] != self._dimensions:
            return replace(bare, outcome="wrong", reason=f"{vectors.shape[1]} dimensions")
        if self._compare(positions, vectors) < _ANOTHER_ITEM:
            return replace(bare, outcome="wrong", reason="another vector than that of the item alone")
        return bare

    def _compare(self, positions: Sequence[int], vectors: Float32Array) -> float:
        """Compare the vectors, and return the smallest cosine similarity to those of the items alone."""
        smallest = 1.0
        for position, vector in zip(positions, vectors, strict=True):
            if (alone := self._expected.alone.get(position)) is not None:
                self.max_difference = max(self.max_difference or 0.0, float(np.abs(vector - alone).max()))
                smallest = min(smallest, _cosine(vector, alone))
            if (reference := self._expected.reference.get(position)) is not None:
                self.min_cosine = min(1.0 if self.min_cosine is None else self.min_cosine, _cosine(vector, reference))
        return smallest


def _cosine(vector: Float32Array, other: Float32Array) -> float:
    """Return the cosine similarity; -1 for vectors of different lengths, and 1 for two of zeros."""
    if vector.shape != other.shape:
        return -1.0
    if not vector.any() and not other.any():
        return 1.0
    return float(vector @ other) / (float(np.linalg.norm(vector) * np.linalg.norm(other)) or math.inf)


class _Meter:
    """Measure CPU time from the start of a measurement to its end."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self.generator_s = self.stolen = 0.0
        self.server_s: float | None = None
        self.server_bytes: int | None = None

    def start(self) -> None:
        self._before = (time.process_time(), self._server(), read_cpu_time())

    def end(self) -> None:
        generator, server, cpu = self._before
        self.generator_s = time.process_time() - generator
        now = self._server()
        self.server_s = None if now is None or server is None else now - server
        self.server_bytes = None if self._pid is None else resident_bytes(self._pid)
        self.stolen = read_cpu_time().steal_share_since(cpu)

    def _server(self) -> float | None:
        return None if self._pid is None else cpu_seconds(self._pid)


def next_rate(judged: Sequence[tuple[float, bool]]) -> float | None:
    """Return the next rate to try, from pairs of a rate and whether it was good: halve the gap at the limit.

    Without any rate, as for a server that answers nothing, there is no next one.
    """
    if not judged:
        return None
    good = [rate for rate, is_good in judged if is_good]
    bad = [rate for rate, is_good in judged if not is_good and rate > max(good, default=0.0)]
    if not bad:
        return 1.25 * max(good)
    return (max(good, default=0.0) + min(bad)) / 2


def whole_rate(rate: float, seconds: float) -> float:
    """Return the nearest rate with a whole number of requests in ``seconds``, at least 1, as an open loop sends it."""
    return max(1, round(rate * seconds)) / seconds
