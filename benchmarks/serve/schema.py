"""Schema of the results of a load test: raw times of every request that was answered. ``analysis`` derives the rest."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results.schema import BenchmarkMachine, dump_json, read_versioned
from benchmarks.serve.interfaces import Encoding, InterfaceName

SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class ServedArtifact:
    """The artifact behind a server, as its ``/info`` describes it."""

    name: str
    space: str  # name of the vector space.
    variant: str
    provider: str


@dataclass(frozen=True, kw_only=True)
class ServerRecord:
    """A server that was measured."""

    name: str
    url: str
    interface: InterfaceName
    encoding: Encoding
    model: str  # its name in requests; empty for TEI's interface, which has none.
    started_here: bool  # whether the benchmark started it, for an artifact.
    dimensions: int  # of its vectors.
    options: str  # of `python -m runtime serve`, if the benchmark started it; without keys.
    artifact: ServedArtifact | None  # `None` if the server does not tell: only `python -m runtime serve` does.


@dataclass(frozen=True, kw_only=True)
class WorkloadRecord:
    """A kind of items."""

    name: str
    source: str
    sha256: str  # hash of its items.


@dataclass(frozen=True, kw_only=True)
class Load:
    """One server under one load, in one round."""

    server: str
    workload: str
    items: int  # per request.
    clients: int | None  # of a closed loop; `None` for an open loop.
    rate: float | None  # requests per second at which an open loop was due to send; `None` for a closed loop.
    round: int
    seconds: float  # of the measurement.
    completed: int  # successes that came in these seconds.
    latency_s: tuple[float, ...]  # of each success, in the order of the requests; from the due time in an open loop.
    failures: dict[str, int]  # requests without vectors, by outcome and reason, such as `refused: status 429`.
    late_s: float  # 99th percentile of the time by which the generator sent a request too late.
    generator_cpu: float  # CPU time of the generator as a share of one core.
    server_cpu_s: float | None  # CPU time of the server in these seconds; `None` if its process is unknown.
    server_bytes: int | None  # resident memory of the server at the end.
    stolen: float  # steal time as a share of the CPU time that was asked for.
    checked: int  # successes whose vectors were read and checked.
    max_difference: float | None  # largest difference to a vector that the server gave for that item alone.
    min_cosine: float | None  # smallest cosine similarity to the reference artifact; `None` without one.


@dataclass(frozen=True, kw_only=True)
class ServeResults:
    """Results of one load test."""

    serve_schema_version: int
    date: str  # start of the run in UTC.
    command: str  # without the values of headers and keys.
    complete: bool  # whether every planned load was measured.
    machine: BenchmarkMachine  # of the generator, and of the servers that run beside it.
    reference: str | None  # name of the artifact whose vectors were the reference.
    timeout_s: float
    max_p99_ms: float | None  # bound of the p99 that the user asked for.
    min_cosine: float  # smallest cosine similarity to the reference with which vectors count as right.
    servers: tuple[ServerRecord, ...]
    workloads: tuple[WorkloadRecord, ...]
    loads: tuple[Load, ...]

    def to_json(self) -> str:
        """Return the text of ``results.json``, with one load per line."""
        return dump_json(dataclasses.asdict(self), by_line="loads")


def read_serve_results(path: Path) -> ServeResults:
    """Read and check the results of a load test from a ``results.json``, or from a report's folder with this file.

    Raises:
        ResultsError: The file is missing, cannot be read, or has another schema.
    """
    readable = range(SCHEMA_VERSION, SCHEMA_VERSION + 1)
    command = "python -m benchmarks serve ARTIFACT -o REPORT"
    return read_versioned(ServeResults, path, "serve_schema_version", readable, command)
