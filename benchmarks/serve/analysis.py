"""Derive the figures of a load test: each load over its rounds, and the rates that a server sustains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.results.prices import Prices, cost_per_million
from benchmarks.results.statistics import ENOUGH_FOR_P99
from benchmarks.serve.schema import Load, ServeResults
from runtime.array_types import Float64Array

SUCCESS = 0.99  # share of the requests that must be answered for a rate to be sustained
# Share of the requests that must be answered while the load lasts. Otherwise a queue grows. A few more of each round
# may be on their way at its end. Among fewer requests than `ENOUGH_TO_JUDGE`, they would be too large a share.
ANSWERED, A_FEW, ENOUGH_TO_JUDGE = 0.95, 3, 60


@dataclass(frozen=True, kw_only=True)
class Level:
    """A load with all its rounds."""

    loads: tuple[Load, ...]  # of the same server, workload, size, clients and rate.

    @property
    def load(self) -> Load:
        """The first round, for the properties that all share."""
        return self.loads[0]

    @cached_property
    def latencies_ms(self) -> Float64Array:
        """Latencies of all successes of all rounds, ``[successes]``."""
        return 1000 * np.concatenate([np.asarray(load.latency_s, dtype=np.float64) for load in self.loads])

    def percentile_ms(self, share: float) -> float | None:
        """Return a percentile of the latencies of all rounds together; ``None`` without a success."""
        return float(np.percentile(self.latencies_ms, share)) if len(self.latencies_ms) else None

    @property
    def p99_ms(self) -> float | None:
        """99th percentile; ``None`` with so few successes that it would be the slowest one."""
        return self.percentile_ms(99) if len(self.latencies_ms) >= ENOUGH_FOR_P99 else None

    @property
    def requests_per_s(self) -> float:
        """Successes per second: the median of the rounds."""
        return float(np.median([load.completed / load.seconds for load in self.loads]))

    @property
    def items_per_s(self) -> float:
        """Items per second: the median of the rounds."""
        return self.load.items * self.requests_per_s

    @property
    def cpu_ms_per_item(self) -> float | None:
        """CPU time of the server per item: the median of the rounds; ``None`` if it is unknown."""
        times = [
            1000 * load.server_cpu_s / (load.completed * load.items)
            for load in self.loads
            if load.server_cpu_s is not None and load.completed
        ]
        return float(np.median(times)) if times else None

    @cached_property
    def failures(self) -> Counter[str]:
        """Requests without vectors, by outcome and reason."""
        return sum((Counter(load.failures) for load in self.loads), Counter())

    @property
    def requests(self) -> int:
        """Number of requests of all rounds."""
        return len(self.latencies_ms) + self.failures.total()

    @property
    def success_share(self) -> float:
        """Successes as a share of the requests."""
        return len(self.latencies_ms) / max(1, self.requests)

    @property
    def sustained(self) -> bool | None:
        """Whether the server kept up with the rate of an open loop; ``None`` with too few requests to tell."""
        completed = sum(load.completed for load in self.loads)
        missing, few = ANSWERED * self.requests - completed, A_FEW * len(self.loads)
        if self.load.rate is None or not completed or self.success_share < SUCCESS or missing > few:
            return False
        return True if missing <= 0 or self.requests >= ENOUGH_TO_JUDGE * len(self.loads) else None

    def within(self, max_p99_ms: float) -> bool | None:
        """Tell whether the server kept up with a p99 within the bound; ``None`` with too few requests to tell."""
        if not self.sustained:
            return self.sustained
        return None if self.p99_ms is None else self.p99_ms <= max_p99_ms

    @property
    def power(self) -> float:
        """Successes per second over the mean latency: Kleinrock's power, which is largest at the knee."""
        return self.requests_per_s / float(self.latencies_ms.mean()) if len(self.latencies_ms) else 0.0


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One server with one workload and one size of requests: its levels of both loops."""

    server: str
    workload: str
    items: int
    offline: Level | None  # of a process without a server; `None` for a server.
    closed: tuple[Level, ...]  # by number of clients.
    open: tuple[Level, ...]  # by rate.

    @property
    def levels(self) -> tuple[Level, ...]:
        """All levels."""
        return (*([self.offline] if self.offline else []), *self.closed, *self.open)

    @property
    def capacity(self) -> Level | None:
        """The highest rate that the server sustained."""
        return _highest(level for level in self.open if level.sustained)

    @property
    def knee(self) -> Level | None:
        """The rate beyond which latency grows faster than throughput: the sustained one with the largest power.

        ``None`` if no higher rate was tried, because nothing shows what latency does beyond.

        Source: Kleinrock, Power and Deterministic Rules of Thumb for Probabilistic Problems in Computer
        Communications, 1979.
        """
        best = max((level for level in self.open if level.sustained), key=lambda level: level.power, default=None)
        return None if best in self.open[-1:] else best

    @property
    def too_few(self) -> bool:
        """Whether any of the rates has too few requests to tell whether it is sustained."""
        return any(level.sustained is None for level in self.open)

    def within(self, max_p99_ms: float) -> Level | None:
        """Return the highest sustained rate with a p99 within the bound."""
        return _highest(level for level in self.open if level.within(max_p99_ms))

    def is_unknown(self, max_p99_ms: float) -> bool:
        """Tell whether the highest rate within the bound is unknown: each that could be has too few requests."""
        found = [level.within(max_p99_ms) for level in self.open]
        return None in found and True not in found


@dataclass(frozen=True, kw_only=True)
class ServeStudy:
    """The content of a report."""

    results: ServeResults
    curves: tuple[Curve, ...]
    prices: Prices | None
    per_hour: float | None  # price of this machine; `None` if it is unknown.

    @property
    def title(self) -> str:
        """Title of the report."""
        return f"Servers under load on {self.results.machine.name}"

    @property
    def sections(self) -> dict[tuple[str, int], tuple[Curve, ...]]:
        """The curves by workload and size of requests, which alone can be compared."""
        found: dict[tuple[str, int], tuple[Curve, ...]] = {}
        for curve in self.curves:
            key = (curve.workload, curve.items)
            found[key] = (*found.get(key, ()), curve)
        return found

    @property
    def levels(self) -> tuple[Level, ...]:
        """All levels of all curves."""
        return tuple(level for curve in self.curves for level in curve.levels)

    def cost_per_million(self, level: Level | None) -> float | None:
        """Return the cost of a million items at the throughput of ``level``; ``None`` if it is unknown."""
        if level is None or self.per_hour is None or not level.items_per_s:
            return None
        return cost_per_million(level.items_per_s, self.per_hour)


def analyze(results: ServeResults, prices: Prices | None) -> ServeStudy:
    """Return ``results`` with all derived figures."""
    keys = dict.fromkeys((load.server, load.workload, load.items) for load in results.loads)
    ordered = sorted(keys, key=lambda key: _order(results, *key))
    return ServeStudy(
        results=results,
        curves=tuple(curve_of(results.loads, *key) for key in ordered),
        prices=prices,
        per_hour=prices.per_hour(results.machine.name) if prices else None,
    )


def curve_of(loads: Sequence[Load], server: str, workload: str, items: int) -> Curve:
    """Return the curve of a server with a workload and a size of requests."""
    own = [load for load in loads if (load.server, load.workload, load.items) == (server, workload, items)]
    clients = sorted({load.clients for load in own if load.clients is not None})
    rates = sorted({load.rate for load in own if load.rate is not None})
    offline = tuple(load for load in own if load.clients is None and load.rate is None)
    return Curve(
        server=server,
        workload=workload,
        items=items,
        offline=Level(loads=offline) if offline else None,
        closed=tuple(Level(loads=tuple(load for load in own if load.clients == number)) for number in clients),
        open=tuple(Level(loads=tuple(load for load in own if load.rate == rate)) for rate in rates),
    )


def _highest(levels: Iterable[Level]) -> Level | None:
    return max(levels, key=lambda level: level.load.rate or 0.0, default=None)


def _order(results: ServeResults, server: str, workload: str, items: int) -> tuple[int, int, int]:
    servers = [record.name for record in results.servers]
    workloads = [record.name for record in results.workloads]
    position = servers.index(server) if server in servers else -1  # without a server: the first to compare with
    return workloads.index(workload), items, position
