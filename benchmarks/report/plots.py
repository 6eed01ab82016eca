"""The plots of a tower that have two logarithmic axes: latency, throughput and the roofline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree.ElementTree import Element

from benchmarks.report.analysis import FAITHFUL, Row, Section, Study
from benchmarks.report.axis import Axis, across, draw_axes, drawable, frame, round_ticks, upward
from benchmarks.report.format import cosine, count, digits, short, span
from benchmarks.report.node import label, node, number
from benchmarks.report.roofline import Roofline
from benchmarks.report.series import Style, legend, styles
from benchmarks.results.schema import Ceilings

_HOLLOW = f"Hollow: a cosine below {FAITHFUL}, or unknown."


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot and what is said below it.

    Attributes:
        title: What it shows.
        drawing: The SVG.
        legend: What its lines and markers stand for; ``None`` if that is written in it.
        note: What has to be known to read it; may be empty.
    """

    title: str
    drawing: Element
    legend: Element | None
    note: str


def latency_plots(section: Section) -> list[Plot]:
    """Returns latency against items a call: end to end, and of the graph for each length of text."""
    kinds = dict.fromkeys((row.case.stage, row.case.tokens) for row in section.rows)
    titles = {"end_to_end": "Latency end to end", "graph": "Latency of the graph alone"}
    plots = []
    for stage, tokens in sorted(kinds, key=lambda kind: (kind[0], kind[1] or 0)):
        rows = [row for row in section.at(stage) if row.case.tokens == tokens and drawable(row.summary.p50_ms)]
        title = titles[stage] + (f", {count(tokens, 'token')}" if tokens else "")
        plots += [_latency(section, title, rows)] if rows else []
    return plots


def throughput_plot(section: Section, study: Study) -> Plot | None:
    """Returns items a second, and what a million cost, against latency; with the ways that no other one beats."""
    rows = [row for row in section.decisive if drawable(row.summary.p50_ms)]
    if not rows:
        return None
    priced = all(row.cost_per_million is not None for row in rows)
    x = across([row.summary.p50_ms for row in rows], right=50 if priced else 14)
    y = upward([row.summary.items_per_s for row in rows])
    title = "Throughput and cost against latency" if priced else "Throughput against latency"
    plot = frame(title, f"{_told(_front(rows))} are beaten by none in both.")
    draw_axes(plot, x, y, ("median time of a call, ms", "items/s"))
    if priced and study.per_hour is not None:
        _cost_axis(plot, x, y, study.per_hour, study.currency)
    plot.append(_front_line(_front(rows), x, y))
    place = _place(x, y, lambda row: (row.summary.p50_ms, row.summary.items_per_s))
    _draw(plot, section, rows, place, judged=True)
    for row in _front(rows):
        label(plot, place(row)[0], place(row)[1] - 8, str(row.case.items), "mid size")
    note = f"Grey: the Pareto front, which nothing beats in both, with its items a call. {_HOLLOW}"
    return Plot(title=title, drawing=plot, legend=_legend(section, rows), note=note)


def roofline_plot(section: Section, ceilings: Ceilings | None) -> Plot | None:
    """Returns operations a second against operations a byte, below what the machine can do."""
    placed = [(row, row.roofline) for row in section.at("graph") if isinstance(row.roofline, Roofline)]
    placed = [(row, roof) for row, roof in placed if drawable(roof.intensity) and drawable(roof.ops_per_s)]
    if not placed or ceilings is None:
        return None
    roofs = _roofs([row for row, _ in placed], ceilings)
    points = {id(row): (roof.intensity, roof.ops_per_s / 1e9) for row, roof in placed}
    ridges = [peak / rate for _, peak, rate in roofs]
    x = across([*(point[0] for point in points.values()), *ridges])
    y = upward([*(point[1] for point in points.values()), *(peak / 1e9 for _, peak, _ in roofs)])
    plot = frame("Roofline", "Operations a second against operations a byte; the lines are the machine's ceilings.")
    draw_axes(plot, x, y, ("operations a byte", "Gop/s"))
    for name, peak, rate in roofs:
        _roof(plot, x, y, (name, peak / 1e9, rate / 1e9))
    rows = [row for row, _ in placed]
    _draw(plot, section, rows, _place(x, y, lambda row: points[id(row)]))
    note = "Lines: the most that memory (slanted) and arithmetic (level) allow. The closer below, the less is left."
    return Plot(title="Roofline of the graph alone", drawing=plot, legend=_legend(section, rows), note=note)


def _latency(section: Section, title: str, rows: Sequence[Row]) -> Plot:
    sizes = sorted({row.case.items for row in rows})
    x = across(sizes, sizes if len(sizes) <= 8 else ())
    y = upward([value for row in rows for value in (row.summary.p50_ms, row.summary.low_ms, row.summary.high_ms)])
    plot = frame(title, f"Median time of a call against its items, of {count(len(rows), 'case')}; see the table.")
    draw_axes(plot, x, y, ("items a call", "median time of a call, ms"))
    plot.append(_whiskers(rows, x, y))
    _draw(plot, section, rows, _place(x, y, lambda row: (row.case.items, row.summary.p50_ms)))
    note = "Whiskers: the interval of the median, mostly narrower than its marker."
    return Plot(title=title, drawing=plot, legend=_legend(section, rows), note=note)


Place = Callable[[Row], tuple[float, float]]


def _place(x: Axis, y: Axis, values: Place) -> Place:
    def place(row: Row) -> tuple[float, float]:
        across_value, up_value = values(row)
        return x.at(across_value), y.at(up_value)

    return place


def _draw(plot: Element, section: Section, rows: Sequence[Row], place: Place, *, judged: bool = False) -> None:
    """Draws a marker for each row, and a line through those of one way at texts of one length."""
    for name, style in styles(section.labels).items():
        own = [row for row in rows if row.label == name]
        if own:
            plot.append(_one(own, style, place, judged=judged))


def _one(rows: Sequence[Row], style: Style, place: Place, *, judged: bool) -> Element:
    group = node("g", {"class": f"{style.colour} thin" if judged else style.colour})
    for tokens in dict.fromkeys(row.case.tokens for row in rows):
        points = [place(row) for row in rows if row.case.tokens == tokens]
        if len(points) > 1:
            group.append(style.line(points))
    for row in rows:
        group.append(style.marker(*place(row), _told_of(row), hollow=judged and not row.faithful))
    return group


def _told_of(row: Row) -> str:
    figures = row.summary
    times = (
        f"{digits(figures.p50_ms)} ms {span(figures.low_ms, figures.high_ms)}, {digits(figures.items_per_s)} items/s"
    )
    close = "" if row.cosine is None else f", cosine {cosine(row.cosine)}"
    doubt = f", {row.doubt}" if row.doubt else ""
    return f"{row.label}, {count(row.case.items, 'item')}: {times}{close}{doubt}"


def _told(rows: Sequence[Row]) -> str:
    return "; ".join(f"{row.label} at {row.case.items}" for row in rows)


def _legend(section: Section, rows: Sequence[Row]) -> Element:
    shown = {row.label for row in rows}
    return legend([name for name in section.labels if name in shown], styles(section.labels))


def _whiskers(rows: Sequence[Row], x: Axis, y: Axis) -> Element:
    path = ""
    for row in rows:
        middle, low, high = x.at(row.case.items), y.at(row.summary.low_ms), y.at(row.summary.high_ms)
        cap = f"M{number(middle - 3)} {{0}}h6"
        path += f"M{number(middle)} {number(low)}V{number(high)}" + cap.format(number(low)) + cap.format(number(high))
    return node("path", {"class": "whisker", "d": path})


def _front(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows that no other one beats in both latency and throughput, the quickest first."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.summary.p50_ms, -row.summary.items_per_s)):
        if not front or row.summary.items_per_s > front[-1].summary.items_per_s:
            front.append(row)
    return front


def _front_line(front: Sequence[Row], x: Axis, y: Axis) -> Element:
    """Returns the border of what can be had: steps from each row of the front to the next."""
    places = [(number(x.at(row.summary.p50_ms)), number(y.at(row.summary.items_per_s))) for row in front]
    steps = "".join(f"H{after[0]}V{after[1]}" for _, after in pairwise(places))
    return node(
        "path", {"class": "front", "d": f"M{places[0][0]} {number(y.start)}V{places[0][1]}{steps}H{number(x.end)}"}
    )


def _cost_axis(plot: Element, x: Axis, y: Axis, per_hour: float, currency: str) -> None:
    """Writes on the right what a million cost at the throughput on the left."""
    for tick in round_ticks(per_hour / y.high / 0.0036, per_hour / y.low / 0.0036):
        label(plot, x.end + 5, y.at(per_hour / tick / 0.0036) + 4, short(tick), "start")
    place = f"translate({number(x.end + 45)} {number((y.start + y.end) / 2)}) rotate(-90)"
    plot.append(node("text", {"transform": place, "class": "mid name"}, f"a million, {currency}"))


def _roofs(rows: Sequence[Row], ceilings: Ceilings) -> list[tuple[str, float, float]]:
    """Returns name, operations a second and bytes a second of each ceiling that the rows are held against."""
    used = {(row.case.device, row.case.precision) for row in rows}
    roofs: dict[str, tuple[str, float, float]] = {}
    for c in sorted(ceilings.products, key=lambda c: c.ops_per_s):
        if (c.device, c.precision) in used and c.device in ceilings.read_bytes_per_s:
            name = f"{c.precision} on {c.device}"
            roofs[name] = (name, c.ops_per_s, ceilings.read_bytes_per_s[c.device])
    return list(roofs.values())


def _roof(plot: Element, x: Axis, y: Axis, roof: tuple[str, float, float]) -> None:
    name, peak, rate = roof
    ridge = min(max(peak / rate, x.low), x.high)
    start = max(x.low, y.low / rate)
    corner = f"M{number(x.at(start))} {number(y.at(start * rate))}L{number(x.at(ridge))} {number(y.at(peak))}"
    plot.append(node("path", {"class": "roof", "d": f"{corner}H{number(x.end)}"}))
    label(plot, x.end, y.at(peak) - 4, name, "end roofname")
