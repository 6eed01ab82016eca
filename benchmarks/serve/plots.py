"""Plots of a load test: throughput against latency, and latency against the rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from benchmarks.report.format import count, digits
from benchmarks.report.plots.axis import Axis, draw_axes, drawable, horizontal_axis, linear_axis, vertical_axis
from benchmarks.report.plots.series import Style
from benchmarks.report.plots.svg import Plot, group, join, path, text
from benchmarks.serve.analysis import Curve, Level

_PERCENTILES = (50, 95, 99)
_DASH = "3 3"


def throughput_plot(curves: Sequence[Curve]) -> Plot | None:
    """Return throughput against median latency of all servers: open loops solid, closed loops dashed."""
    levels = [level for curve in curves for level in (*curve.open, *curve.closed) if _is_drawable(level)]
    if not levels:
        return None
    x = horizontal_axis([_median(level) for level in levels])
    y = vertical_axis([level.items_per_s for level in levels])
    series = [(curve, Style(position=n, dash="")) for n, curve in enumerate(curves)]
    return Plot(
        title="Throughput against latency",
        description=f"{count(len(levels), 'load')} of {count(len(curves), 'server')}; tables below have the values.",
        body=join(
            [
                draw_axes(x, y, "median latency, ms", "items/s"),
                *(part for curve, style in series for part in _draw_curve(curve, style, x, y)),
            ]
        ),
        legend=tuple((style.sample(), curve.server) for curve, style in series),
        note="Solid: open loop, from the lowest rate on. Dashed: closed loop, with the number of clients. Hollow: the "
        "server did not keep up with the rate.",
    )


def latency_plot(curve: Curve) -> Plot | None:
    """Return the percentiles of the latency of one server against the rate, with its knee."""
    levels = [level for level in curve.open if _is_drawable(level)]
    if len(levels) < 2:
        return None
    found = {share: _percentiles(levels, share) for share in _PERCENTILES}
    x = linear_axis([level.load.rate or 0.0 for level in levels])
    y = vertical_axis([value for points in found.values() for _, value in points])
    series = [(Style(position=n, dash=""), share) for n, share in enumerate(_PERCENTILES) if found[share]]
    lines = (_draw_percentiles(found[share], style, f"p{share}", x, y) for style, share in series)
    return Plot(
        title=f"Latency by rate: {curve.server}",
        description="; ".join(f"{level.load.rate:g} requests/s: {_describe(level)}" for level in levels),
        body=join([draw_axes(x, y, "requests per second", "latency, ms"), *_draw_limits(curve, x, y), *lines]),
        legend=tuple((style.sample(), f"p{share}") for style, share in series),
        note="Latency counts from the time at which a request was due. p99 needs 100 successes.",
    )


def _draw_curve(curve: Curve, style: Style, x: Axis, y: Axis) -> Iterator[Markup]:
    for levels, dash in ((curve.open, ""), (curve.closed, _DASH)):
        shown = [level for level in levels if _is_drawable(level)]
        if not shown:
            continue
        points = [(x.at(_median(level)), y.at(level.items_per_s)) for level in shown]
        line = [Style(position=style.position, dash=dash).line(points)] if len(points) > 1 else []
        markers = [
            style.marker(*point, f"{curve.server}, {_describe(level)}", hollow=not (dash or level.sustained))
            for point, level in zip(points, shown, strict=True)
        ]
        yield group(style.colour, [*line, *markers])
        if dash:
            for (across, up), level in zip(points, shown, strict=True):
                yield text(across, up - 8, str(level.load.clients), "mid size")


def _draw_percentiles(points: Sequence[tuple[float, float]], style: Style, name: str, x: Axis, y: Axis) -> Markup:
    placed = [(x.at(rate), y.at(value)) for rate, value in points]
    markers = [
        style.marker(*point, f"{name} at {rate:g} requests/s: {digits(value)} ms")
        for point, (rate, value) in zip(placed, points, strict=True)
    ]
    return group(style.colour, [*([style.line(placed)] if len(placed) > 1 else []), *markers])


def _draw_limits(curve: Curve, x: Axis, y: Axis) -> Iterator[Markup]:
    """Yield vertical lines at the knee and at the highest sustained rate."""
    rates = {"knee": curve.knee, "sustained": curve.capacity}
    if curve.knee is curve.capacity:
        rates = {"knee, sustained": curve.knee}
    for n, (name, level) in enumerate(rates.items()):
        if level is not None and level.load.rate:
            across = x.at(level.load.rate)
            yield path("roof", f"M{across:.1f} {y.start:.1f}V{y.end:.1f}", _DASH)
            yield text(across - 4, y.end + 12 + 15 * n, name, "end roofname")


def _is_drawable(level: Level) -> bool:
    return drawable(level.percentile_ms(50) or 0.0) and drawable(level.items_per_s)


def _median(level: Level) -> float:
    return level.percentile_ms(50) or 0.0


def _percentiles(levels: Sequence[Level], share: int) -> list[tuple[float, float]]:
    """Return rate and percentile of each level that has it."""
    pairs = [(level.load.rate or 0.0, level.p99_ms if share == 99 else level.percentile_ms(share)) for level in levels]
    return [(rate, value) for rate, value in pairs if value is not None]


def _describe(level: Level) -> str:
    load = level.load
    name = f"{load.rate:g} requests/s" if load.clients is None else count(load.clients, "client")
    return f"{name}: median {digits(level.percentile_ms(50))} ms, {digits(level.items_per_s)} items/s"
