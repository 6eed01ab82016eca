"""Turn the results of a load test into a report: one HTML page, and Markdown for a pull request."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report.caveats import busy, machine_table
from benchmarks.report.format import NONE, cosine, count, digits, percent, printable
from benchmarks.report.html import load_template
from benchmarks.report.markdown import escape
from benchmarks.report.plots import Plot
from benchmarks.report.table import Cell, Column, Table, table
from benchmarks.report.write import FILES, Format
from benchmarks.results.prices import Prices
from benchmarks.results.statistics import ENOUGH_FOR_P99
from benchmarks.results.steal_time import MAX_STEAL
from benchmarks.serve.analysis import ANSWERED, SUCCESS, Curve, Level, ServeStudy, analyze
from benchmarks.serve.plots import latency_plot, throughput_plot
from benchmarks.serve.schema import Load, ServeResults, ServerRecord
from runtime.atomic_write import write_text

MAX_GENERATOR_CPU = 0.7  # share of one core above which the generator itself may be the bottleneck
MAX_LATE = 0.1  # lateness of the generator as a share of the median latency above which it distorts the latency
MAX_DIFFERENCE = 1e-5  # between two vectors of the same item, from float arithmetic in another order
MIN_COSINE = 0.999


@dataclass(frozen=True, kw_only=True)
class Section:
    """One workload at one size of requests."""

    title: str
    source: str
    sentences: tuple[str, ...]
    plots: tuple[Plot, ...]
    tables: tuple[Table, ...]


def write_serve_report(
    results: ServeResults, folder: Path, formats: Sequence[Format], prices: Prices | None = None
) -> list[Path]:
    """Write ``results`` into an existing folder in each format, each file whole or not at all, and return the paths."""
    study = analyze(results, prices)
    renderers: dict[Format, Callable[[], str]] = {
        "html": lambda: render_html(study),
        "md": lambda: render_markdown(study),
        "json": results.to_json,
    }
    paths = []
    for name in formats:
        write_text(folder / FILES[name], renderers[name]())
        paths.append(folder / FILES[name])
    return paths


def render_html(study: ServeStudy) -> str:
    """Return a study as an HTML page. The template escapes every value."""
    return printable(load_template("serve.html.j2").render(_content(study))).lstrip()


def render_markdown(study: ServeStudy) -> str:
    """Return a study as GitHub Flavored Markdown. The template escapes every value."""
    text = load_template("serve.md.j2", finalize=escape).render(_content(study))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def warnings(study: ServeStudy) -> tuple[str, ...]:
    """Return reasons to distrust the figures or the servers, the most serious first."""
    checks = (_incomplete, _wrong, _differing, _other_vectors, _unchecked, _busy_generator, _late, _busy, _steal_time)
    return tuple(filter(None, (check(study) for check in checks)))


def glance_table(study: ServeStudy) -> Table:
    """Return the most important figures of each server and workload."""
    bound = study.results.max_p99_ms
    within = f"within p99 of {digits(bound)} ms"
    columns: list[Column[Curve]] = [
        ("server", lambda curve: curve.server),
        ("workload", _workload),
        ("most items/s", lambda curve: _most(curve)),
        ("CPU ms per item", lambda curve: _optional(_busiest(curve), lambda level: level.cpu_ms_per_item)),
        ("knee, requests/s", lambda curve: _rate(curve, curve.knee)),
        ("sustained, requests/s", lambda curve: _rate(curve, curve.capacity)),
        ("p99 ms there", lambda curve: _optional(curve.capacity, lambda level: level.p99_ms)),
    ]
    if bound is not None:
        columns.append((f"requests/s {within}", lambda curve: _rate(curve, curve.within(bound))))
    if study.per_hour is not None and study.prices is not None:
        name = f"{study.prices.currency} per million items" + (f" {within}" if bound is not None else "")
        columns.append((name, lambda curve: _cost(study, curve)))
    note = "Most items/s: of the closed loops. Knee: the rate beyond which latency grows faster than throughput."
    return table("At a glance", columns, study.curves, words=2, note=note)


def closed_table(curves: Sequence[Curve]) -> Table:
    """Return the closed loops."""
    first = curves[0]
    columns: list[Column[tuple[Curve, Level]]] = [
        ("server", lambda row: row[0].server),
        ("clients", lambda row: str(row[1].load.clients or NONE)),
        ("items/s", lambda row: digits(row[1].items_per_s)),
        (f"times {first.server}", lambda row: _ratio(row[1], first) if row[0] is not first else ""),
        *_latency_columns(),
    ]
    rows = [(curve, level) for curve in curves for level in curve.levels if level.load.rate is None]
    note = "Each client sends its next request when it has the answer. Beside ratios: the range of the rounds."
    return table("Closed loop", columns, rows, note=note)


def open_table(curves: Sequence[Curve]) -> Table:
    """Return the open loops."""
    columns: list[Column[tuple[Curve, Level]]] = [
        ("server", lambda row: row[0].server),
        ("requests/s due", lambda row: digits(row[1].load.rate)),
        ("answered/s", lambda row: Cell(text=digits(row[1].requests_per_s), mark=_mark(row[1]))),
        *_latency_columns(),
        ("", lambda row: _remark(*row)),
    ]
    rows = [(curve, level) for curve in curves for level in curve.open]
    shares = percent(SUCCESS), percent(ANSWERED)
    note = "A rate is sustained if {} of the requests get vectors, and {} get them while the load lasts.".format(
        *shares
    )
    return table("Open loop", columns, rows, note=note)


def failures_table(curves: Sequence[Curve]) -> Table:
    """Return the requests without vectors."""
    rows = [
        (curve, level, reason, number)
        for curve in curves
        for level in curve.levels
        for reason, number in sorted(level.failures.items())
    ]
    columns: list[Column[tuple[Curve, Level, str, int]]] = [
        ("server", lambda row: row[0].server),
        ("load", lambda row: _load_name(row[1])),
        ("reason", lambda row: row[2]),
        ("requests", lambda row: f"{row[3]:,}"),
        ("share", lambda row: percent(row[3] / row[1].requests)),
    ]
    return table("Failures", columns, rows, words=3, note="None of them counts as an answer.")


def vectors_table(curves: Sequence[Curve]) -> Table:
    """Return the checks of the vectors, by server."""
    columns: list[Column[Curve]] = [
        ("server", lambda curve: curve.server),
        ("answers checked", lambda curve: f"{sum(load.checked for load in _loads(curve)):,}"),
        ("largest difference to the item alone", lambda curve: _scientific(largest_difference(_loads(curve)))),
        ("smallest cosine to the reference", lambda curve: cosine(smallest_cosine(_loads(curve)))),
    ]
    note = "Every checked answer had the right number of vectors, of the same length, all finite; others are failures."
    return table("Vectors", columns, [curve for curve in curves if curve.offline is None], note=note)


def servers_table(results: ServeResults) -> Table:
    """Return the servers that were measured."""
    columns: list[Column[ServerRecord]] = [
        ("server", lambda server: server.name),
        ("address", lambda server: "started for the benchmark" if server.started_here else server.url),
        ("interface", lambda server: f"{server.interface}, {server.encoding}"),
        ("model", lambda server: server.model),
        ("dimensions", lambda server: str(server.dimensions)),
    ]
    return table("Servers", columns, results.servers, words=4)


def method(results: ServeResults) -> tuple[str, ...]:
    """Return the description of the method, one paragraph per entry."""
    return (
        "All servers took turns at each load, round by round. Throughput and CPU time are medians of the rounds; "
        f"percentiles are of all rounds together. A p99 needs {ENOUGH_FOR_P99} successes.",
        "In a closed loop, each client sends its next request when it has the answer, so a slow server gets fewer "
        "requests. In an open loop, requests are due at random times (a Poisson process), whatever the server does. "
        "Their latency counts from the time at which they were due, not from the time at which they were sent.",
        "Each load began with a warm-up of the same load, which does not count. Before that, the server embedded items "
        "alone; their vectors are those that answers under load are compared with.",
        f"A request without an answer within {digits(results.timeout_s)} s is a timeout. Refusals (429 and 503), "
        "timeouts, errors and answers without the right vectors are counted apart, and never as successes.",
        "CPU time is that of the server's process and its descendants while the load lasted, over the items of the "
        "answers in that time. The knee is the sustained rate with the largest ratio of throughput to mean latency "
        "(Kleinrock's power). Costs are price per hour / (items per second x 3600) x 1,000,000.",
    )


def largest_difference(loads: Sequence[Load]) -> float | None:
    """Return the largest difference to the vector of an item alone; ``None`` if none was compared."""
    return max((load.max_difference for load in loads if load.max_difference is not None), default=None)


def smallest_cosine(loads: Sequence[Load]) -> float | None:
    """Return the smallest cosine similarity to the reference; ``None`` if none was compared."""
    return min((load.min_cosine for load in loads if load.min_cosine is not None), default=None)


def _content(study: ServeStudy) -> dict[str, Any]:
    machine = machine_table(study.results.machine)
    rows = tuple(row for row in machine.rows if row[0].text != "threads per contender")  # a server has its own number
    return {
        "study": study,
        "warnings": warnings(study),
        "glance": glance_table(study),
        "sections": [_section(study, curves) for curves in study.sections.values()],
        "servers": servers_table(study.results),
        "machine": replace(machine, rows=rows),
        "method": method(study.results),
    }


def _section(study: ServeStudy, curves: Sequence[Curve]) -> Section:
    workload = curves[0].workload
    servers = [curve for curve in curves if curve.offline is None]
    plots = [throughput_plot(servers), *map(latency_plot, servers)]
    tables = [closed_table(curves), open_table(curves), vectors_table(curves), failures_table(curves)]
    return Section(
        title=_workload(curves[0]),
        source=next(record.source for record in study.results.workloads if record.name == workload),
        sentences=tuple(_sentence(study, curve) for curve in curves),
        plots=tuple(plot for plot in plots if plot),
        tables=tuple(each for each in tables if each.rows),
    )


def _sentence(study: ServeStudy, curve: Curve) -> str:
    """Say what a server can do."""
    parts = []
    if busiest := _busiest(curve):
        parts.append(f"at most {digits(busiest.items_per_s)} items/s with {_load_name(busiest)}")
    capacity = curve.capacity
    if capacity and curve.knee:
        parts.append(f"it sustains {_rate_and_p99(capacity)}, with the knee at {_rate_and_p99(curve.knee)}")
    elif curve.open:
        parts.append("it sustains none of the rates")
    bound = study.results.max_p99_ms
    if bound is not None and curve.open:
        best = curve.within(bound)
        parts.append(
            f"{digits(best.load.rate)} requests/s within a p99 of {digits(bound)} ms"
            if best
            else "never within the p99"
        )
    return f"{curve.server}: {'; '.join(parts)}."


def _latency_columns() -> list[Column[tuple[Curve, Level]]]:
    return [
        ("p50 ms", lambda row: digits(row[1].percentile_ms(50))),
        ("p95 ms", lambda row: digits(row[1].percentile_ms(95))),
        ("p99 ms", lambda row: digits(row[1].p99_ms)),
        ("CPU ms per item", lambda row: digits(row[1].cpu_ms_per_item) if _has_cpu(row[1]) else ""),
        ("resident MiB", lambda row: _resident(row[1])),
        ("generator's CPU", lambda row: percent(max(load.generator_cpu for load in row[1].loads))),
        ("failed", lambda row: percent(1 - row[1].success_share) if row[1].failures else ""),
    ]


def _ratio(level: Level, first: Curve) -> Cell | str:
    """Return the throughput as a multiple of the first server's in the same round."""
    same = [each for each in first.closed if each.load.clients == level.load.clients]
    base = {load.round: load.completed / load.seconds for each in [*same, first.offline] if each for load in each.loads}
    ratios = [load.completed / load.seconds / base[load.round] for load in level.loads if base.get(load.round)]
    if not ratios:
        return NONE
    aside = f"{digits(min(ratios))} to {digits(max(ratios))}" if len(ratios) > 1 else ""
    return Cell(text=digits(float(np.median(ratios))), aside=aside)


def _mark(level: Level) -> str:
    return "" if level.sustained else "not sustained"


def _remark(curve: Curve, level: Level) -> str:
    return ", ".join(name for name, each in (("knee", curve.knee), ("sustained", curve.capacity)) if each is level)


def _workload(curve: Curve) -> str:
    return f"{curve.workload}, {count(curve.items, 'item')} per request"


def _load_name(level: Level) -> str:
    load = level.load
    if load.clients is not None:
        return count(load.clients, "client")
    return "all items at once" if load.rate is None else f"{load.rate:g} requests/s"


def _busiest(curve: Curve) -> Level | None:
    return curve.offline or max(curve.closed, key=lambda level: level.items_per_s, default=None)


def _most(curve: Curve) -> Cell | str:
    level = _busiest(curve)
    return Cell(text=digits(level.items_per_s), aside=f"with {_load_name(level)}") if level else ""


def _rate(curve: Curve, level: Level | None) -> str:
    """Return a rate of a curve; a dash if it has none, and nothing without open loops."""
    return digits(level.load.rate if level else None) if curve.open else ""


def _cost(study: ServeStudy, curve: Curve) -> str:
    bound = study.results.max_p99_ms
    return (
        digits(study.cost_per_million(curve.capacity if bound is None else curve.within(bound))) if curve.open else ""
    )


def _rate_and_p99(level: Level) -> str:
    p99 = "" if level.p99_ms is None else f" (p99 {digits(level.p99_ms)} ms)"
    return f"{digits(level.load.rate)} requests/s{p99}"


def _optional(level: Level | None, figure: Callable[[Level], float | None]) -> str:
    return digits(figure(level)) if level else ""


def _has_cpu(level: Level) -> bool:
    return any(load.server_cpu_s is not None for load in level.loads)


def _resident(level: Level) -> str:
    sizes = [load.server_bytes for load in level.loads if load.server_bytes is not None]
    return digits(max(sizes) / 2**20) if sizes else ""


def _loads(curve: Curve) -> list[Load]:
    return [load for level in curve.levels for load in level.loads]


def _scientific(value: float | None) -> str:
    return NONE if value is None else f"{value:.1e}" if value else "0"


def _incomplete(study: ServeStudy) -> str:
    return "" if study.results.complete else "The run stopped before everything was measured."


def _wrong(study: ServeStudy) -> str:
    names = _names(load for load in study.results.loads if any(key.startswith("wrong") for key in load.failures))
    return f"Answers without the right vectors: {names}." if names else ""


def _differing(study: ServeStudy) -> str:
    loads = [load for load in study.results.loads if (load.max_difference or 0.0) > MAX_DIFFERENCE]
    if not loads:
        return ""
    return (
        f"Vectors depend on the load: those of {_names(loads)} differ by up to "
        f"{_scientific(largest_difference(loads))} from those of the same items alone."
    )


def _other_vectors(study: ServeStudy) -> str:
    loads = [load for load in study.results.loads if load.min_cosine is not None and load.min_cosine < MIN_COSINE]
    if not loads:
        return ""
    return (
        f"Other vectors than those of {study.results.reference}: {_names(loads)}, with cosines down to "
        f"{cosine(smallest_cosine(loads))}."
    )


def _unchecked(study: ServeStudy) -> str:
    answers = sum(len(load.latency_s) for load in study.results.loads)
    checked = sum(load.checked for load in study.results.loads)
    return f"{percent(1 - checked / answers)} of the answers were not checked." if checked < answers else ""


def _busy_generator(study: ServeStudy) -> str:
    highest = max((load.generator_cpu for load in study.results.loads), default=0.0)
    if highest <= MAX_GENERATOR_CPU:
        return ""
    return (
        f"The load generator used up to {percent(highest)} of a core and may be the bottleneck. Use --encoding base64, "
        "or more machines."
    )


def _late(study: ServeStudy) -> str:
    late = [load for level in study.levels for load in level.loads if load.late_s > MAX_LATE * _median_s(level)]
    if not late:
        return ""
    return (
        f"The load generator sent requests late in {count(len(late), 'load')}, by up to "
        f"{digits(1000 * max(load.late_s for load in late))} ms (p99). These latencies contain that time."
    )


def _median_s(level: Level) -> float:
    return (level.percentile_ms(50) or 0.0) / 1000


def _busy(study: ServeStudy) -> str:
    return busy(study.results.machine)


def _steal_time(study: ServeStudy) -> str:
    loads = [load for load in study.results.loads if load.stolen > MAX_STEAL]
    if not loads:
        return ""
    return (
        f"The host took CPU time from this virtual machine: more than {percent(MAX_STEAL)} in {len(loads)} of "
        f"{count(len(study.results.loads), 'load')}, up to {percent(max(load.stolen for load in loads))}."
    )


def _names(loads: Any) -> str:
    return ", ".join(dict.fromkeys(load.server for load in loads))
