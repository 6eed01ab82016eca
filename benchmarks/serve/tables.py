"""Tables of the report of a load test."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.report.format import NONE, cosine, count, digits, percent
from benchmarks.report.table import Cell, Column, Table, table
from benchmarks.serve.analysis import A_FEW, ANSWERED, ENOUGH_TO_JUDGE, SUCCESS, Curve, Level, ServeStudy
from benchmarks.serve.doubts import largest_difference, scientific, smallest_cosine
from benchmarks.serve.schema import Load, ServeResults, ServerRecord


def glance_table(study: ServeStudy) -> Table:
    """Return the most important figures of each server and workload."""
    bound = study.results.max_p99_ms
    within = f"within p99 of {digits(bound)} ms"
    columns: list[Column[Curve]] = [
        ("server", lambda curve: curve.server),
        ("workload", workload_name),
        ("most items/s", lambda curve: _most(curve)),
        ("CPU ms per item", lambda curve: _optional(busiest(curve), lambda level: level.cpu_ms_per_item)),
        ("knee, requests/s", lambda curve: _rate(curve, curve.knee)),
        ("sustained, requests/s", lambda curve: _capacity(curve)),
        ("p99 ms there", lambda curve: _optional(curve.capacity, lambda level: level.p99_ms)),
    ]
    if bound is not None:
        columns.append((f"requests/s {within}", lambda curve: _rate_within(curve, bound)))
    if study.per_hour is not None and study.prices is not None:
        name = f"{study.prices.currency} per million items" + (f" {within}" if bound is not None else "")
        columns.append((name, lambda curve: _cost(study, curve)))
    note = (
        "Most items/s: of the closed loops. Knee: the rate beyond which latency grows faster than throughput, if a "
        "higher rate was tried."
    )
    return table("At a glance", columns, study.curves, words=2, note=f"{note}{_price_note(study)}")


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
    note = (
        f"A rate is sustained if {percent(SUCCESS)} of the requests get vectors, and {percent(ANSWERED)} get them "
        f"while the load lasts. With {ENOUGH_TO_JUDGE} or more requests in a round, {A_FEW} more may be on their way "
        "at its end. With fewer, a rate at which that decides has too few requests."
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
        ("load", lambda row: load_name(row[1])),
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
        ("largest difference to the item alone", lambda curve: scientific(largest_difference(_loads(curve)))),
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
        (
            "variant",
            lambda server: f"{server.artifact.variant} on {server.artifact.provider}" if server.artifact else "",
        ),
        ("dimensions", lambda server: str(server.dimensions)),
    ]
    return table("Servers", columns, results.servers, words=4)


def workload_name(curve: Curve) -> str:
    """Return the name of a workload at a size of requests."""
    return f"{curve.workload}, {count(curve.items, 'item')} per request"


def load_name(level: Level) -> str:
    """Return the name of a load."""
    load = level.load
    if load.clients is not None:
        return count(load.clients, "client")
    return "all items at once" if load.rate is None else f"{load.rate:g} requests/s"


def busiest(curve: Curve) -> Level | None:
    """Return the level with the most items per second, of those that are no open loops."""
    return curve.offline or max(curve.closed, key=lambda level: level.items_per_s, default=None)


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
    return {True: "", False: "not sustained", None: "too few requests"}[level.sustained]


def _remark(curve: Curve, level: Level) -> str:
    return ", ".join(name for name, each in (("knee", curve.knee), ("sustained", curve.capacity)) if each is level)


def _most(curve: Curve) -> Cell | str:
    level = busiest(curve)
    return Cell(text=digits(level.items_per_s), aside=f"with {load_name(level)}") if level else ""


def _rate(curve: Curve, level: Level | None) -> str:
    """Return a rate of a curve; a dash if it has none, and nothing without open loops."""
    return digits(level.load.rate if level else None) if curve.open else ""


def _capacity(curve: Curve) -> Cell | str:
    return _highest_rate(curve, curve.capacity) if curve.capacity or not curve.too_few else "too few requests"


def _rate_within(curve: Curve, bound: float) -> Cell | str:
    return "too few requests" if curve.is_unknown(bound) else _highest_rate(curve, curve.within(bound))


def _highest_rate(curve: Curve, level: Level | None) -> Cell | str:
    """Return a rate of a curve, and say if no higher one was tried."""
    return Cell(text=_rate(curve, level), aside="the highest tried" if level and level is curve.open[-1] else "")


def _cost(study: ServeStudy, curve: Curve) -> str:
    bound = study.results.max_p99_ms
    return (
        digits(study.cost_per_million(curve.capacity if bound is None else curve.within(bound))) if curve.open else ""
    )


def _price_note(study: ServeStudy) -> str:
    if study.prices is None or study.per_hour is not None:
        return ""
    name = study.results.machine.name
    return f" The price file of {study.prices.date} has no price for {name}; set the name with --machine."


def _optional(level: Level | None, figure: Callable[[Level], float | None]) -> str:
    return digits(figure(level)) if level else ""


def _has_cpu(level: Level) -> bool:
    return any(load.server_cpu_s is not None for load in level.loads)


def _resident(level: Level) -> str:
    sizes = [load.server_bytes for load in level.loads if load.server_bytes is not None]
    return digits(max(sizes) / 2**20) if sizes else ""


def _loads(curve: Curve) -> list[Load]:
    return [load for level in curve.levels for load in level.loads]
