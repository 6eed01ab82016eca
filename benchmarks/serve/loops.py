"""Send requests in a closed loop, where each client waits for its answer, or in an open loop, at a given rate.

In an open loop, the latency of a request counts from the time at which it was due, not from its sending. A server that
stalls for a second delays every request that was due in that second, and all of them count. A generator that waits for
the server, and then counts from the sending, would report one slow request. This error is called coordinated omission.

Source: Gil Tene, How NOT to Measure Latency, 2013; Schroeder, Wierman and Harchol-Balter, Open Versus Closed: A
Cautionary Tale, 2006.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

Outcome = Literal["ok", "refused", "timeout", "error", "wrong"]
REFUSED = (429, 503)
_MOST_KEPT_BYTES = 2**28  # of answers, which are checked after the measurement; later ones are not kept
_PAUSE_S = 0.05  # of a client after a failure; without it, a client would ask a full server as fast as it can


class Connection(Protocol):
    """A connection to the server."""

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and return status and body."""

    def close(self) -> None:
        """Close the connection."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A request and what became of it. Times are seconds since the start of the measurement."""

    number: int  # position in the sequence of requests.
    due_s: float
    begun_s: float  # when the generator turned to it; later than `due_s` if the generator is too slow.
    end_s: float
    outcome: Outcome
    reason: str = ""  # of a failure, such as `status 429`.
    body: bytes | None = field(default=None, repr=False)  # of a success; `None` if there was no room to keep it.

    @property
    def latency_s(self) -> float:
        """Seconds from the time at which the request was due."""
        return self.end_s - self.due_s


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """The load."""

    seconds: float  # of the measurement.
    warm_up_s: float  # of the same load before it; its requests do not count.
    timeout_s: float  # of a request, from the time at which it was due.
    clients: int | None = None  # of a closed loop.
    rate: float | None = None  # requests per second of an open loop.
    seed: int = 0  # of the times of arrival of an open loop.
    most_connections: int = 512  # of an open loop; requests that are due wait for a free one, and that time counts.


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """The samples of one load."""

    # of a closed loop, the requests that ended after the warm-up; of an open loop, those that were due while the
    # measurement lasted. Both hold requests that ended after it: without these, no latency could be longer than it.
    samples: tuple[Sample, ...]
    completed: int  # successes that came while the measurement lasted, whenever they were due.


async def run_loop(
    options: LoopOptions,
    requests: Sequence[bytes],
    connect: Callable[[], Connection],
    *,
    on_start: Callable[[], None] = lambda: None,
    on_end: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> LoopResult:
    """Send ``requests`` over and over, as ``options`` say.

    Args:
        options: The load.
        requests: Whole requests, which are sent in turn.
        connect: Function that prepares a connection.
        on_start: Function that is called when the measurement begins, after the warm-up.
        on_end: Function that is called when it ends.
        clock: Source of the time in seconds.
    """
    load = _Load(options, requests, connect, clock)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.call_at(0.0, on_start))
            tasks.create_task(load.call_at(options.seconds, on_end))
            if options.clients is not None:
                for _ in range(options.clients):
                    tasks.create_task(load.be_client())
            else:
                tasks.create_task(load.send_arrivals(tasks))
    finally:
        load.close()
    return load.result()


def arrivals(options: LoopOptions) -> list[float]:
    """Return the times at which requests are due, from the warm-up on: the same for each seed.

    They are those of a Poisson process of which the number of requests is known: every run at a rate has equally many.
    """
    rate, generator = options.rate or 0.0, np.random.default_rng(options.seed)
    before = generator.uniform(-options.warm_up_s, 0, round(rate * options.warm_up_s))
    after = generator.uniform(0, options.seconds, max(1, round(rate * options.seconds)))
    return [float(due) for due in np.sort(np.concatenate([before, after]))]


class _Load:
    def __init__(
        self,
        options: LoopOptions,
        requests: Sequence[bytes],
        connect: Callable[[], Connection],
        clock: Callable[[], float],
    ) -> None:
        self._options = options
        self._requests = requests
        self._connect = connect
        self._clock = clock
        self._zero = clock() + options.warm_up_s
        self._numbers = itertools.count()
        self._idle: list[Connection] = []
        self._all: list[Connection] = []
        self._samples: list[Sample] = []
        self._kept_bytes = 0

    def now(self) -> float:
        """Return the seconds since the start of the measurement; negative during the warm-up."""
        return self._clock() - self._zero

    async def call_at(self, when: float, call: Callable[[], None]) -> None:
        await self._sleep_until(when)
        call()

    async def be_client(self) -> None:
        """Send a request after each answer until the measurement ends."""
        connection = self._open()
        while (due := self.now()) < self._options.seconds:
            sample = await self._ask(connection, due, due, next(self._numbers))
            if sample.outcome != "ok":
                await asyncio.sleep(_PAUSE_S)

    async def send_arrivals(self, tasks: asyncio.TaskGroup) -> None:
        """Send each request when it is due, whatever became of those before it."""
        free = asyncio.Semaphore(self._options.most_connections)
        for due in arrivals(self._options):
            await self._sleep_until(due)
            tasks.create_task(self._arrive(due, next(self._numbers), free))

    def close(self) -> None:
        for connection in self._all:
            connection.close()

    def result(self) -> LoopResult:
        """Return the samples that count."""
        is_open, seconds = self._options.clients is None, self._options.seconds
        completed = sum(s.outcome == "ok" and 0 <= s.end_s < seconds for s in self._samples)
        ours = [s for s in self._samples if (s.due_s if is_open else s.end_s) >= 0]
        ours.sort(key=lambda sample: sample.number)
        return LoopResult(samples=tuple(ours), completed=completed)

    async def _arrive(self, due: float, number: int, free: asyncio.Semaphore) -> None:
        begun = self.now()
        try:
            await asyncio.wait_for(free.acquire(), self._left(due))
        except TimeoutError:
            self._add(number, due, begun, "timeout", "no free connection")
            return
        connection = self._idle.pop() if self._idle else self._open()
        try:
            await self._ask(connection, due, begun, number)
        finally:
            self._idle.append(connection)
            free.release()

    async def _ask(self, connection: Connection, due: float, begun: float, number: int) -> Sample:
        request = self._requests[number % len(self._requests)]
        try:
            async with asyncio.timeout(self._left(due)):  # `wait_for` of Python 3.11 can swallow a cancellation
                status, body = await connection.ask(request)
        except TimeoutError:
            return self._add(number, due, begun, "timeout", "timeout")
        except (OSError, EOFError, ValueError) as exc:
            return self._add(number, due, begun, "error", type(exc).__name__)
        if status == 200:
            return self._add(number, due, begun, "ok", body=body)
        return self._add(number, due, begun, "refused" if status in REFUSED else "error", f"status {status}")

    def _add(
        self, number: int, due: float, begun: float, outcome: Outcome, reason: str = "", body: bytes | None = None
    ) -> Sample:
        self._kept_bytes += len(body or b"")
        body = body if self._kept_bytes <= _MOST_KEPT_BYTES else None
        sample = Sample(
            number=number, due_s=due, begun_s=begun, end_s=self.now(), outcome=outcome, reason=reason, body=body
        )
        self._samples.append(sample)
        return sample

    def _open(self) -> Connection:
        self._all.append(connection := self._connect())
        return connection

    def _left(self, due: float) -> float:
        return max(0.0, self._options.timeout_s - (self.now() - due))

    async def _sleep_until(self, when: float) -> None:
        await asyncio.sleep(max(0.0, when - self.now()))
