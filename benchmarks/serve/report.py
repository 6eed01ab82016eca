"""Turn the results of a load test into a report: one HTML page, and Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.report.caveats import machine_table
from benchmarks.report.format import digits
from benchmarks.report.html import fill_html
from benchmarks.report.markdown import fill_markdown
from benchmarks.report.plots import Plot
from benchmarks.report.table import Table
from benchmarks.report.write import Format, write_files
from benchmarks.results.prices import Prices
from benchmarks.results.statistics import ENOUGH_FOR_P99
from benchmarks.serve.analysis import Curve, Level, ServeStudy, analyze
from benchmarks.serve.doubts import warnings
from benchmarks.serve.plots import latency_plot, throughput_plot
from benchmarks.serve.schema import ServeResults
from benchmarks.serve.tables import (
    busiest,
    closed_table,
    failures_table,
    glance_table,
    load_name,
    open_table,
    servers_table,
    vectors_table,
    workload_name,
)


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
    """Write ``results`` in each format, as :func:`benchmarks.report.write.write_report` does for other results."""
    study = analyze(results, prices)
    html, markdown = partial(render_html, study), partial(render_markdown, study)
    return write_files(folder, formats, {"html": html, "md": markdown, "json": results.to_json})


def render_html(study: ServeStudy) -> str:
    """Return a study as an HTML page."""
    return fill_html("serve.html.j2", _content(study))


def render_markdown(study: ServeStudy) -> str:
    """Return a study as GitHub Flavored Markdown."""
    return fill_markdown("serve.md.j2", _content(study))


def method(results: ServeResults) -> tuple[str, ...]:
    """Return the description of the method, one paragraph per entry."""
    return (
        "All servers took turns at each load, round by round. Throughput and CPU time are medians of the rounds; "
        f"percentiles are of all rounds together. A p99 needs {ENOUGH_FOR_P99} successes.",
        "In a closed loop, each client sends its next request when it has the answer, so a slow server gets fewer "
        "requests. Answers after its end count in the percentiles, not in the throughput. In an open loop, requests "
        "are due at random times (a Poisson process), whatever the server does. Their latency counts from the time at "
        "which they were due, not from the time at which they were sent.",
        "Each load began with a warm-up of the same load, which does not count. Before that, the server embedded items "
        "alone; their vectors are those that answers under load are compared with.",
        f"A request without an answer within {digits(results.timeout_s)} s is a timeout. Refusals (429 and 503), "
        "timeouts, errors and answers without the right vectors are counted apart, and never as successes.",
        "CPU time is that of the server's process and its descendants while the load lasted, over the items of the "
        "answers in that time. The knee is the sustained rate with the largest ratio of throughput to mean latency "
        "(Kleinrock's power). Costs are price per hour / (items per second x 3600) x 1,000,000.",
    )


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
        title=workload_name(curves[0]),
        source=next(record.source for record in study.results.workloads if record.name == workload),
        sentences=tuple(_sentence(study, curve) for curve in curves),
        plots=tuple(plot for plot in plots if plot),
        tables=tuple(each for each in tables if each.rows),
    )


def _sentence(study: ServeStudy, curve: Curve) -> str:
    """Say what a server can do."""
    parts = []
    if fastest := busiest(curve):
        parts.append(f"at most {digits(fastest.items_per_s)} items/s with {load_name(fastest)}")
    capacity = curve.capacity
    if capacity:
        knee = f", with the knee at {_rate_and_p99(curve.knee)}" if curve.knee else ""
        parts.append(f"it sustains {_rate_and_p99(capacity)}{knee}")
    elif curve.open:
        parts.append("too few requests to tell what it sustains" if curve.too_few else "it sustains none of the rates")
    bound = study.results.max_p99_ms
    if bound is not None and curve.open:
        parts.append(_within(curve, bound))
    return f"{curve.server}: {'; '.join(parts)}."


def _within(curve: Curve, bound: float) -> str:
    if curve.is_unknown(bound):
        return "too few requests to tell what it does within the p99"
    best = curve.within(bound)
    return f"{digits(best.load.rate)} requests/s within a p99 of {digits(bound)} ms" if best else "never within the p99"


def _rate_and_p99(level: Level) -> str:
    p99 = "" if level.p99_ms is None else f" (p99 {digits(level.p99_ms)} ms)"
    return f"{digits(level.load.rate)} requests/s{p99}"
