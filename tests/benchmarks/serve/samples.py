"""Made-up results of load tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.serve.schema import SCHEMA_VERSION, Load, ServedArtifact, ServeResults, ServerRecord, WorkloadRecord
from tests.benchmarks.samples import MACHINE

LOAD = Load(
    server="ours",
    workload="short",
    items=1,
    clients=1,
    rate=None,
    round=0,
    seconds=5.0,
    completed=40,
    latency_s=(0.01, 0.02, 0.03, 0.04) * 10,
    failures={},
    late_s=0.0001,
    generator_cpu=0.1,
    server_cpu_s=0.04,
    server_bytes=300 * 2**20,
    stolen=0.0,
    checked=40,
    max_difference=6e-8,
    min_cosine=0.9999999,
)
ARTIFACT = ServedArtifact(name="toy", space="vs1-0123456789abcdef.int8-01234567", variant="int8", provider="cpu")
SERVER = ServerRecord(
    name="ours",
    url="http://127.0.0.1:8080/v1/embeddings",
    interface="openai",
    encoding="float",
    model="toy",
    started_here=True,
    dimensions=384,
    options="--variant int8",
    artifact=ARTIFACT,
)


def loads_of(server: str, workload: str, capacity: float, rounds: int = 1) -> tuple[Load, ...]:
    """Return the loads of a server that answers ``capacity`` requests per second at most."""
    found = []
    generator = np.random.default_rng(0)
    idle_s = 1 / capacity
    for number in range(rounds):
        for clients in (1, 8, 64):
            latency = clients / capacity
            found.append(_load(server, workload, number, latency, capacity, generator, clients=clients))
        for share in (0.1, 0.5, 0.8, 0.95, 1.1):
            latency = idle_s / (1 - share) if share < 1 else 1.0
            rate = share * capacity
            found.append(_load(server, workload, number, latency, min(rate, capacity), generator, rate=rate))
    return tuple(found)


def _load(
    server: str,
    workload: str,
    number: int,
    latency_s: float,
    per_s: float,
    generator: np.random.Generator,
    *,
    clients: int | None = None,
    rate: float | None = None,
) -> Load:
    completed = round(5 * per_s)
    requests = completed if rate is None else round(5 * rate)
    times = latency_s * generator.gamma(4, 0.25, requests)
    return replace(
        LOAD,
        server=server,
        workload=workload,
        clients=clients,
        rate=rate,
        round=number,
        completed=completed,
        latency_s=tuple(float(round(time, 6)) for time in times),
        server_cpu_s=0.9 * completed / per_s,
        checked=requests,
    )


RESULTS = ServeResults(
    serve_schema_version=SCHEMA_VERSION,
    date="2026-11-26T04:00:00+00:00",
    command="python -m benchmarks serve ours=artifacts/toy http://127.0.0.1:8081 -o report",
    complete=True,
    machine=MACHINE,
    reference="toy",
    timeout_s=30.0,
    max_p99_ms=50.0,
    min_cosine=0.999,
    servers=(SERVER, replace(SERVER, name="theirs", started_here=False, interface="tei", model="", artifact=None)),
    workloads=(
        WorkloadRecord(name="short", source="made up", sha256="0" * 64),
        WorkloadRecord(name="long", source="made up", sha256="0" * 64),
    ),
    loads=(
        *loads_of("ours", "short", 300),
        *loads_of("theirs", "short", 100),
        *loads_of("ours", "long", 30),
        *loads_of("theirs", "long", 10),
    ),
)
