"""Run ``python -m benchmarks serve``: load servers with requests, and write a report."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import runtime
from benchmarks.measure.machine import this_machine
from benchmarks.results.prices import Prices, read_prices
from benchmarks.results.schema import RESULTS_FILE
from benchmarks.serve.connection import ask_once, format_request
from benchmarks.serve.interfaces import Endpoint, make_endpoint
from benchmarks.serve.measure import LoadPlan, Measurement, Server, ServerError, embed_alone
from benchmarks.serve.offline import OfflineEmbedder
from benchmarks.serve.options import build_parser, make_plan
from benchmarks.serve.process import serve_command, start_server
from benchmarks.serve.report import write_serve_report
from benchmarks.serve.schema import SCHEMA_VERSION, ServeResults, ServerRecord, WorkloadRecord
from benchmarks.serve.workloads import ServeWorkload, make_workload
from runtime import console
from runtime.array_types import Float32Array
from runtime.artifact.reader import read_manifest
from runtime.atomic_write import write_text
from runtime.errors import OutputError, UsageError
from runtime.machine.threads import available_threads

_MODELS_TIMEOUT_S = 30


def main(arguments: Sequence[str]) -> int:
    """Measure, and print the paths of the report."""
    options = build_parser().parse_args(arguments)
    return console.run(lambda: _serve(options, public_command(arguments)))


def public_command(arguments: Sequence[str]) -> str:
    """Return the command line without the values of headers, which may be keys."""
    words = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        name, equals, _ = word.partition("=")
        words.append("***" if _is_private(before) else f"{name}=***" if equals and _is_private(name) else word)
    return shlex.join(["python", "-m", "benchmarks", "serve", *words])


def _is_private(option: str) -> bool:
    """Tell whether an option is ``--header``, perhaps abbreviated."""
    return len(option) > len("--") and "--header".startswith(option)


def _serve(options: argparse.Namespace, command: str) -> int:
    plan = make_plan(options)
    prices = read_prices(options.prices) if options.prices else None
    workloads = options.workloads or (("own",) if options.items else ("mixed",))
    _prepare_output(options)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedding-backbones-")))
        items = [make_workload(name, options.items, scratch) for name in dict.fromkeys(workloads)]
        servers = [stack.enter_context(_open_server(name, place, options)) for name, place in _names(options.servers)]
        results = ServeResults(
            serve_schema_version=SCHEMA_VERSION,
            date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            command=command,
            complete=False,
            machine=this_machine(options.machine, available_threads()),
            reference=read_manifest(options.verify).name if options.verify else None,
            timeout_s=plan.timeout_s,
            max_p99_ms=plan.max_p99_ms,
            servers=tuple(_record(server, options, items[0], plan) for server in servers),
            workloads=tuple(WorkloadRecord(name=each.name, source=each.source) for each in items),
            loads=(),
        )
        _measure(plan, servers, items, results, options, prices)
    return 0


def _measure(
    plan: LoadPlan,
    servers: Sequence[Server],
    workloads: Sequence[ServeWorkload],
    results: ServeResults,
    options: argparse.Namespace,
    prices: Prices | None,
) -> None:
    """Measure all workloads and write the report, also if the user interrupts."""
    output: Path = options.output

    def on_load(so_far: ServeResults, name: str) -> None:
        write_text(output / RESULTS_FILE, so_far.to_json())
        print(f"  {name}", file=sys.stderr, flush=True)

    reference = partial(_reference_vectors, options.verify)
    offline = OfflineEmbedder(options.embed) if options.embed else None
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


def _prepare_output(options: argparse.Namespace) -> None:
    output: Path = options.output
    if (output / RESULTS_FILE).exists() and not options.force:
        raise OutputError(f"{output} has results; replace them with --force, or name another folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"cannot create {output} ({exc.strerror}); choose another folder for the report") from exc


def _names(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return name and place of each server; a URL or a path may hold an equals sign, too."""
    pairs = []
    for word in words:
        name, equals, place = word.partition("=")
        has_name = equals and "/" not in name and not Path(word).exists()
        place = place if has_name else word
        pairs.append((name if has_name else place if "://" in place else Path(place).name, place))
    if len(dict(pairs)) < len(pairs):
        raise UsageError(f"servers need different names: {', '.join(name for name, _ in pairs)}; write NAME=URL")
    return pairs


@contextlib.contextmanager
def _open_server(name: str, place: str, options: argparse.Namespace) -> Iterator[Server]:
    """Yield the server at a URL, or one that is started for an artifact."""
    pid = _of_server(options.pid, name, "--pid")
    if "://" in place:
        yield Server(name=name, endpoint=_endpoint(name, place, options), pid=int(pid) if pid else None)
        return
    read_manifest(Path(place))  # an error here is clearer than that of a server
    with start_server(serve_command(Path(place), shlex.split(options.server_options))) as (url, own_pid):
        yield Server(name=name, endpoint=_endpoint(name, url, options), pid=own_pid)


def _endpoint(name: str, url: str, options: argparse.Namespace) -> Endpoint:
    headers = [_split_header(header) for header in options.header]
    if options.api_key_file:
        headers.append(("Authorization", f"Bearer {_read_key(options.api_key_file)}"))
    endpoint = make_endpoint(url, interface=options.format, encoding=options.encoding, headers=headers)
    if endpoint.interface == "tei":
        return endpoint
    return replace(endpoint, model=_of_server(options.model, name, "--model") or _first_model(name, endpoint))


def _split_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not text.isprintable():
        raise UsageError("--header must have the form NAME:VALUE, without control characters")
    return name.strip(), value.strip()


def _read_key(path: Path) -> str:
    try:
        return path.read_text("utf-8").split()[0]
    except (OSError, ValueError, IndexError) as exc:
        raise UsageError(f"{path} holds no key ({exc})") from exc


def _of_server(words: Sequence[str], name: str, option: str) -> str | None:
    """Return the value of ``[NAME=]VALUE`` for a server."""
    found = None
    for word in words:
        owner, equals, value = word.rpartition("=")
        if not equals or owner == name:
            found = value
    if option == "--pid" and found is not None and not found.isdecimal():
        raise UsageError(f"{option} is {found!r:.80}; it must be a number")
    return found


def _first_model(name: str, endpoint: Endpoint) -> str:
    """Return the first model that a server lists."""
    path = endpoint.path.removesuffix("/embeddings") + "/models"
    request = format_request("GET", endpoint.address, path, dict(endpoint.headers))
    try:
        _, body = asyncio.run(ask_once(endpoint.address, request, _MODELS_TIMEOUT_S))
        return str(json.loads(body)["data"][0]["id"])
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, TimeoutError) as exc:
        raise ServerError(
            f"{name} at {endpoint.address}{path} lists no models ({type(exc).__name__}: {exc}); name one with --model, "
            "or use --format tei"
        ) from exc


def _record(server: Server, options: argparse.Namespace, workload: ServeWorkload, plan: LoadPlan) -> ServerRecord:
    endpoint = server.endpoint
    return ServerRecord(
        name=server.name,
        url=f"{endpoint.address}{endpoint.path}",
        interface=endpoint.interface,
        encoding=endpoint.encoding,
        model=endpoint.model,
        started_here=any(name == server.name and "://" not in place for name, place in _names(options.servers)),
        dimensions=len(embed_alone(server, workload, 1, plan.timeout_s)[0]),
    )


def _reference_vectors(artifact: Path | None, workload: ServeWorkload, count: int) -> dict[int, Float32Array]:
    """Return the vectors of the first items by the artifact, by position."""
    if artifact is None:
        return {}
    items = list(workload.items[:count])
    return dict(enumerate(runtime.load(artifact).embed(items, tower=workload.kind)))
