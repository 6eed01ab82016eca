"""Read what a machine can do as a service from load tests, the reports of ``python -m benchmarks serve``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.choose.candidates import Candidate, Service, Task, check_machines, sort_by_task
from benchmarks.results.schema import ResultsError
from benchmarks.serve.analysis import Curve, analyze
from benchmarks.serve.doubts import smallest_cosine, warnings
from benchmarks.serve.schema import ServedArtifact, ServeResults, ServerRecord, read_serve_results
from benchmarks.serve.tables import workload_name
from runtime.artifact.space import parent_space

_OWN = "own"  # workload of the user's items; others are made by the benchmark
_NO_COSINE = "its vectors were compared with no reference; measure with --verify ARTIFACT"


def find_services(
    paths: Sequence[Path], service: Service, artifact: str | None
) -> tuple[dict[Task, tuple[Candidate, ...]], list[str]]:
    """Return the servers that the reports measured, by task, and warnings about them.

    Raises:
        ResultsError: A report cannot be read, reports contradict each other, or none has a server of an artifact.
        UsageError: No server has that artifact.
    """
    reports = {path: read_serve_results(path) for path in paths}
    found = [each for path, results in reports.items() for each in _candidates(path, results, service)]
    if not found:
        raise ResultsError(
            "no report has an open loop of a server that names its vector space, as `python -m runtime serve` does; "
            "measure one with `python -m benchmarks serve ARTIFACT -o REPORT`"
        )
    check_machines(each for each in found if each.command)  # of the others, the report knows only the load generator
    tasks, doubts = sort_by_task(found, artifact)
    doubts += [doubt for each in tasks.items() for doubt in _compare_items(*each, reports)]
    doubts += [doubt for path, results in reports.items() for doubt in _doubts(path, results, service)]
    return tasks, list(dict.fromkeys(doubts))


def _candidates(path: Path, results: ServeResults, service: Service) -> Iterator[Candidate]:
    servers = {server.name: server for server in results.servers}
    for curve in analyze(results, None).curves:
        server = servers.get(curve.server)  # `None` for `embed` without a server
        if server is not None and server.artifact is not None and curve.open:
            yield _candidate(path, results, curve, server, server.artifact, service)


def _candidate(
    path: Path, results: ServeResults, curve: Curve, server: ServerRecord, artifact: ServedArtifact, service: Service
) -> Candidate:
    best = curve.within(service.max_p99_ms)
    options = f" {server.options}" if server.options else ""
    return Candidate(
        path=path,
        date=results.date,
        task=Task(artifact=artifact.name, work=workload_name(curve), vectors=parent_space(artifact.space)),
        machine=results.machine,
        setup=f"{server.name}, {artifact.variant} on {artifact.provider}",
        command=f"python -m runtime serve ARTIFACT{options}" if server.started_here else "",
        per_s=(best.load.rate or 0.0) if best else 0.0,
        fault="" if best else _find_fault(curve, service.max_p99_ms),
        min_cosine=smallest_cosine([load for level in curve.levels for load in level.loads]),
        no_cosine=_NO_COSINE,
        remark="the highest tried" if best and best is curve.open[-1] else "",
    )


def _find_fault(curve: Curve, max_p99_ms: float) -> str:
    if curve.is_unknown(max_p99_ms):
        return "too few requests to compare its p99 with --max-p99-ms; measure with more --seconds"
    p99s = [(level.p99_ms, level.load.rate or 0.0) for level in curve.open if level.p99_ms is not None]
    smallest = "its smallest p99 is {:.3g} ms, at {:g} requests/s; ".format(*min(p99s)) if p99s else ""
    return (
        f"no rate was sustained with a p99 within {max_p99_ms:g} ms; {smallest}raise --max-p99-ms, or measure lower "
        "rates, a faster machine or a faster variant"
    )


def _doubts(path: Path, results: ServeResults, service: Service) -> Iterator[str]:
    for warning in warnings(analyze(results, None)):
        yield f"{path}: {warning}"
    if results.max_p99_ms != service.max_p99_ms:
        yield (
            f"{path} was measured without --max-p99-ms {service.max_p99_ms:g}, which adds rates near this bound: it "
            "may allow a higher one, and fewer machines"
        )
    for server in results.servers:
        if server.artifact is None:
            yield f"{path}: {server.name} is ignored, because it does not name the vector space of its vectors"


def _compare_items(task: Task, candidates: Sequence[Candidate], reports: Mapping[Path, ServeResults]) -> Iterator[str]:
    """Yield a warning if built-in items of a task differ between reports.

    Raises:
        ResultsError: The user's own items differ.
    """
    workload = task.work.partition(",")[0]
    paths = {
        record.sha256: each.path
        for each in candidates
        for record in reports[each.path].workloads
        if record.name == workload
    }
    if len(paths) > 1:
        names = " and ".join(map(str, paths.values()))
        if workload == _OWN:
            raise ResultsError(f"the items of {names} differ; measure with the same --items")
        yield (
            f"the {workload} items of {names} differ, as those of two versions of Python or Pillow do; measure with "
            "the same versions, or with the same --items"
        )
