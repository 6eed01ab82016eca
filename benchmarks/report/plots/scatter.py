"""Plots with two logarithmic axes: latency, throughput and the roofline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from benchmarks.report.analysis import TORCH_COSINE, Row, Section, Study
from benchmarks.report.format import cosine, count, digits, short, span
from benchmarks.report.plots.axis import Axis, draw_axes, drawable, horizontal_axis, round_ticks, vertical_axis
from benchmarks.report.plots.series import legend, styles
from benchmarks.report.plots.svg import Plot, group, join, path, text, upward_name
from benchmarks.report.roofline import Roofline
from benchmarks.results.schema import Ceilings

Placed = tuple[Row, float, float]  # a row and its position in the plot


def latency_plots(section: Section) -> list[Plot]:
    """Return latency against batch size: end to end, and of the graph for each length of text."""
    kinds = dict.fromkeys((row.case.stage, row.case.tokens) for row in section.rows)
    titles = {"end_to_end": "Latency, end to end", "graph": "Latency, graph only"}
    plots = []
    for stage, tokens in sorted(kinds, key=lambda kind: (kind[0], kind[1] or 0)):
        rows = [row for row in section.at(stage) if row.case.tokens == tokens and drawable(row.summary.p50_ms)]
        title = titles[stage] + (f", {count(tokens, 'token')}" if tokens else "")
        plots += [_latency_plot(section, title, rows)] if rows else []
    return plots


def throughput_plot(section: Section, study: Study) -> Plot | None:
    """Return throughput and cost against latency, with the Pareto front."""
    rows = [row for row in section.decisive if drawable(row.summary.p50_ms)]
    if not rows:
        return None
    priced = all(row.cost_per_million is not None for row in rows)
    x = horizontal_axis([row.summary.p50_ms for row in rows], right=50 if priced else 14)
    y = vertical_axis([row.summary.items_per_s for row in rows])
    placed = [(row, x.at(row.summary.p50_ms), y.at(row.summary.items_per_s)) for row in rows]
    front = _pareto_front(placed)
    body = (
        draw_axes(x, y, "median latency, ms", "items/s"),
        *(_cost_axis(x, y, study.per_hour, study.currency) if priced and study.per_hour else ()),
        _front_line(front, x, y),
        *_series(section, placed, judge_parity=True),
        *(text(across, up - 8, str(row.case.items), "mid size") for row, across, up in front),
    )
    best = "; ".join(f"{row.label} with batch size {row.case.items}" for row, _, _ in front)
    return Plot(
        title="Throughput and cost against latency" if priced else "Throughput against latency",
        description=f"No setup is better in both than: {best}.",
        body=join(body),
        legend=legend(section, rows),
        note="Grey line: Pareto front, where no setup is better in both. Numbers: batch sizes. "
        f"Hollow markers: cosine below {TORCH_COSINE}, or unknown.",
    )


def roofline_plot(section: Section, ceilings: Ceilings | None) -> Plot | None:
    """Return operations per second against operations per byte, below the peak rates of the machine."""
    rooflines = [(row, row.roofline) for row in section.at("graph") if isinstance(row.roofline, Roofline)]
    points = [
        (row, r.intensity, r.ops_per_s / 1e9) for row, r in rooflines if drawable(r.intensity) and drawable(r.ops_per_s)
    ]
    if not points or ceilings is None:
        return None
    rows = [row for row, _, _ in points]
    roofs = _roofs(rows, ceilings)
    x = horizontal_axis([*(across for _, across, _ in points), *(peak / rate for peak, rate in roofs.values())])
    y = vertical_axis([*(up for _, _, up in points), *(peak for peak, _ in roofs.values())])
    body = (
        draw_axes(x, y, "operations per byte", "Gop/s"),
        *(_roof(x, y, name, peak, rate) for name, (peak, rate) in roofs.items()),
        *_series(section, [(row, x.at(across), y.at(up)) for row, across, up in points]),
    )
    return Plot(
        title="Roofline, graph only",
        description="Operations per second against operations per byte; the lines are the machine's peak rates.",
        body=join(body),
        legend=legend(section, rows),
        note="Lines: limits of memory (slanted) and of arithmetic (flat). "
        "The closer a point is to its line, the less can be gained.",
    )


def _latency_plot(section: Section, title: str, rows: Sequence[Row]) -> Plot:
    sizes = sorted({row.case.items for row in rows})
    x = horizontal_axis(sizes, sizes if len(sizes) <= 8 else ())
    y = vertical_axis([time for row in rows for time in (row.summary.p50_ms, row.summary.low_ms, row.summary.high_ms)])
    body = (
        draw_axes(x, y, "batch size", "median latency, ms"),
        path("whisker", "".join(_whisker(row, x, y) for row in rows)),
        *_series(section, [(row, x.at(row.case.items), y.at(row.summary.p50_ms)) for row in rows]),
    )
    return Plot(
        title=title,
        description=f"Median latency against batch size, {count(len(rows), 'case')}; a table below has the values.",
        body=join(body),
        legend=legend(section, rows),
        note="Whiskers: confidence interval of the median, often smaller than the marker.",
    )


def _series(section: Section, placed: Sequence[Placed], *, judge_parity: bool = False) -> Iterator[Markup]:
    """Yield, for each setup, a line through the rows with one length of text, and a marker per row."""
    for label, style in styles(section).items():
        own = [each for each in placed if each[0].label == label]
        if not own:
            continue
        lines: dict[int | None, list[tuple[float, float]]] = {}
        for row, x, y in own:
            lines.setdefault(row.case.tokens, []).append((x, y))
        parts = [style.line(points) for points in lines.values() if len(points) > 1]
        parts += [
            style.marker(x, y, _hover_text(row), hollow=judge_parity and not row.matches_torch) for row, x, y in own
        ]
        yield group(f"{style.colour} thin" if judge_parity else style.colour, parts)


def _hover_text(row: Row) -> str:
    figures = row.summary
    time = f"{digits(figures.p50_ms)} ms {span(figures.low_ms, figures.high_ms)}"
    facts = (
        f"{row.label}, {count(row.case.items, 'item')}: {time}, {digits(figures.items_per_s)} items/s",
        "" if row.cosine is None else f"cosine {cosine(row.cosine)}",
        row.warning,
    )
    return ", ".join(filter(None, facts))


def _whisker(row: Row, x: Axis, y: Axis) -> str:
    middle, low, high = x.at(row.case.items), y.at(row.summary.low_ms), y.at(row.summary.high_ms)
    caps = "".join(f"M{middle - 3:.1f} {end:.1f}h6" for end in (low, high))
    return f"M{middle:.1f} {low:.1f}V{high:.1f}{caps}"


def _pareto_front(placed: Sequence[Placed]) -> list[Placed]:
    """Return the rows that no other beats in both latency and throughput, lowest latency first."""
    front: list[Placed] = []
    for each in sorted(placed, key=lambda each: (each[0].summary.p50_ms, -each[0].summary.items_per_s)):
        if not front or each[0].summary.items_per_s > front[-1][0].summary.items_per_s:
            front.append(each)
    return front


def _front_line(front: Sequence[Placed], x: Axis, y: Axis) -> Markup:
    """Return steps from each row of the Pareto front to the next."""
    steps = "".join(f"H{across:.1f}V{up:.1f}" for _, across, up in front[1:])
    _, across, up = front[0]
    return path("front", f"M{across:.1f} {y.start:.1f}V{up:.1f}{steps}H{x.end:.1f}")


def _cost_axis(x: Axis, y: Axis, per_hour: float, currency: str) -> Iterator[Markup]:
    """Yield an axis on the right: the cost of a million items at the throughput on the left."""
    for tick in round_ticks(per_hour / y.high / 0.0036, per_hour / y.low / 0.0036):
        yield text(x.end + 5, y.at(per_hour / tick / 0.0036) + 4, short(tick), "start")
    yield upward_name(x.end + 45, (y.start + y.end) / 2, f"{currency} per million")


def _roofs(rows: Sequence[Row], ceilings: Ceilings) -> dict[str, tuple[float, float]]:
    """Return the name of each peak rate that applies to the rows, with Gop/s and GB/s."""
    used = {(row.case.device, row.case.precision) for row in rows}
    return {
        f"{c.precision} on {c.device}": (c.ops_per_s / 1e9, ceilings.read_bytes_per_s[c.device] / 1e9)
        for c in sorted(ceilings.products, key=lambda c: c.ops_per_s)
        if (c.device, c.precision) in used and c.device in ceilings.read_bytes_per_s
    }


def _roof(x: Axis, y: Axis, name: str, peak: float, rate: float) -> Markup:
    ridge = min(max(peak / rate, x.low), x.high)
    start = max(x.low, y.low / rate)
    corner = f"M{x.at(start):.1f} {y.at(start * rate):.1f}L{x.at(ridge):.1f} {y.at(peak):.1f}"
    return join((path("roof", f"{corner}H{x.end:.1f}"), text(x.end, y.at(peak) - 4, name, "end roofname")))
