"""Run ``python -m benchmarks serve``: load servers with requests, and write a report."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import hashlib
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import runtime
from benchmarks.measure.machine import this_machine
from benchmarks.report.write import make_folder
from benchmarks.results.prices import Prices, read_prices
from benchmarks.results.schema import RESULTS_FILE
from benchmarks.serve.analysis import analyze
from benchmarks.serve.doubts import faults
from benchmarks.serve.measure import LoadPlan, Measurement, Server, embed_alone
from benchmarks.serve.offline import OfflineEmbedder
from benchmarks.serve.options import MIN_COSINE, build_parser, check_used, make_plan
from benchmarks.serve.process import split_server_options
from benchmarks.serve.report import write_serve_report
from benchmarks.serve.schema import SCHEMA_VERSION, ServeResults, ServerRecord, WorkloadRecord
from benchmarks.serve.targets import Target, find_artifact, open_server, read_targets
from benchmarks.serve.workloads import ServeWorkload, make_workload
from runtime.array_types import Float32Array
from runtime.artifact.reader import read_manifest
from runtime.atomic_write import write_text
from runtime.errors import EmbeddingBackbonesError, OutputError
from runtime.machine.threads import available_threads

_SERVER_KEY = re.compile(r"""(--api-key[=\s]+)('[^']*'|"[^"]*"|\S+)""")  # in --server-options


def main(arguments: Sequence[str]) -> int:
    """Measure, and print the paths of the report.

    Raises:
        EmbeddingBackbonesError: A server gave wrong vectors, or failed.
    """
    return _serve(build_parser().parse_args(arguments), public_command(arguments))


def public_command(arguments: Sequence[str]) -> str:
    """Return the command line without the values of headers, which may be keys, and without those of ``--api-key``."""
    words = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        name, equals, _ = word.partition("=")
        words.append("***" if _is_private(before) else f"{name}=***" if equals and _is_private(name) else word)
    return shlex.join(["python", "-m", "benchmarks", "serve", *map(_hide_keys, words)])


def _hide_keys(server_options: str) -> str:
    return _SERVER_KEY.sub(r"\1***", server_options)


def _is_private(option: str) -> bool:
    """Tell whether an option is ``--header``, perhaps abbreviated."""
    return len(option) > len("--") and "--header".startswith(option)


def _serve(options: argparse.Namespace, command: str) -> int:
    plan = make_plan(options)
    prices = read_prices(options.prices) if options.prices else None
    workloads = options.workloads or (("own",) if options.items else ("mixed",))
    targets = read_targets(options)
    check_used(options, any(target.is_artifact for target in targets))
    split_server_options(options.server_options)  # an error here is clearer than that of a server
    for artifact in filter(None, (options.embed, options.verify)):
        read_manifest(artifact)
    _prepare_output(options)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedding-backbones-")))
        items = [make_workload(name, options.items, scratch) for name in dict.fromkeys(workloads)]
        servers = [stack.enter_context(open_server(target, options)) for target in targets]
        results = ServeResults(
            serve_schema_version=SCHEMA_VERSION,
            date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            command=command,
            complete=False,
            machine=this_machine(options.machine, available_threads()),
            reference=read_manifest(options.verify).name if options.verify else None,
            timeout_s=plan.timeout_s,
            max_p99_ms=plan.max_p99_ms,
            min_cosine=MIN_COSINE if options.min_cosine is None else options.min_cosine,
            servers=tuple(
                _record(server, target, items[0], plan, _hide_keys(options.server_options))
                for server, target in zip(servers, targets, strict=True)
            ),
            workloads=tuple(
                WorkloadRecord(name=each.name, source=each.source, sha256=_hash_items(each)) for each in items
            ),
            loads=(),
        )
        results = _measure(plan, servers, items, results, options, prices)
    if found := faults(analyze(results, None)):
        report = options.output / "report.html"
        raise EmbeddingBackbonesError(f"{' '.join(found)} See the loads and the failures in {report}")
    return 0


def _measure(
    plan: LoadPlan,
    servers: Sequence[Server],
    workloads: Sequence[ServeWorkload],
    results: ServeResults,
    options: argparse.Namespace,
    prices: Prices | None,
) -> ServeResults:
    """Measure all workloads, write the report, also if the user interrupts, and return the results."""
    output: Path = options.output

    def on_load(so_far: ServeResults, name: str) -> None:
        write_text(output / RESULTS_FILE, so_far.to_json())
        print(f"  {name}", file=sys.stderr, flush=True)

    reference = partial(_reference_vectors, options.verify)
    offline = OfflineEmbedder(options.embed, split_server_options(options.server_options)) if options.embed else None
    measurement = Measurement(plan, servers, results, offline=offline, reference=reference, on_load=on_load)
    try:
        for workload in workloads:
            measurement.measure(workload)
        measurement.results = replace(measurement.results, complete=True)
    finally:
        if offline is not None:
            offline.close()
        if measurement.results.loads:
            for path in write_serve_report(measurement.results, output, ("json", "html", "md"), prices):
                print(path)
    return measurement.results


def _prepare_output(options: argparse.Namespace) -> None:
    output: Path = options.output
    if (output / RESULTS_FILE).exists() and not options.force:
        raise OutputError(f"{output} has results; replace them with --force, or name another folder")
    make_folder(output)


def _hash_items(workload: ServeWorkload) -> str:
    """Return the hash of the texts, or of the content of the files."""
    digest = hashlib.sha256()
    for item in workload.items:
        content = item.encode("utf-8", "surrogatepass") if isinstance(item, str) else item.read_bytes()
        digest.update(f"{len(content)} ".encode() + content)
    return digest.hexdigest()


def _record(server: Server, target: Target, workload: ServeWorkload, plan: LoadPlan, options: str) -> ServerRecord:
    endpoint = server.endpoint
    return ServerRecord(
        name=server.name,
        url=f"{endpoint.address}{endpoint.path}",
        interface=endpoint.interface,
        encoding=endpoint.encoding,
        model=endpoint.model,
        started_here=target.is_artifact,
        dimensions=len(embed_alone(server, workload, 1, plan.timeout_s)[0]),
        options=options if target.is_artifact else "",
        artifact=find_artifact(endpoint),
    )


def _reference_vectors(artifact: Path | None, workload: ServeWorkload, count: int) -> dict[int, Float32Array]:
    """Return the vectors of the first items by the artifact's fp32 graph on the CPU, by position."""
    if artifact is None:
        return {}
    with runtime.load(artifact, provider="cpu", variant="fp32") as model:
        return dict(enumerate(model.embed(list(workload.items[:count]), tower=workload.kind)))
