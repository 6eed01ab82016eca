"""Axes of plots: where a value stands, and which values are written beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from benchmarks.report.format import short
from benchmarks.report.node import label, node, number

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 14, 12, 42
_MANTISSAS = ((1, 2, 5), (1, 3), (1,))  # the finest that gives no more than _MOST ticks
_MOST = 7


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A logarithmic axis.

    Attributes:
        low: Value at its start.
        high: Value at its end.
        start: Pixel of its start.
        end: Pixel of its end.
        ticks: Values that are written beside it.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Returns the pixel of ``value``, which has to be positive."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def drawable(value: float) -> bool:
    """Tells whether ``value`` has a place on a logarithmic axis."""
    return math.isfinite(value) and value > 0


def across(values: Iterable[float], ticks: Sequence[float] = (), right: float = RIGHT) -> Axis:
    """Returns the horizontal axis for ``values``, which are positive, with ``ticks`` or round ones."""
    return _axis(list(values), LEFT, WIDTH - right, ticks)


def upward(values: Iterable[float]) -> Axis:
    """Returns the vertical axis for ``values``, which are positive."""
    return _axis(list(values), HEIGHT - BOTTOM, TOP, ())


def frame(title: str, description: str, height: float = HEIGHT) -> Element:
    """Returns an empty plot that a screen reader can name."""
    view = f"0 0 {WIDTH} {number(height)}"
    return node("svg", {"viewBox": view, "role": "img"}, node("title", None, title), node("desc", None, description))


def draw_axes(plot: Element, x: Axis, y: Axis, names: tuple[str, str]) -> None:
    """Draws grid, ticks and the ``names`` of both axes, which hold their units."""
    lines = [f"M{number(x.at(tick))} {number(y.start)}V{number(y.end)}" for tick in x.ticks]
    lines += [f"M{number(x.start)} {number(y.at(tick))}H{number(x.end)}" for tick in y.ticks]
    plot.append(node("path", {"class": "grid", "d": "".join(lines)}))
    for tick in x.ticks:
        label(plot, x.at(tick), y.start + 15, short(tick), "mid")
    for tick in y.ticks:
        label(plot, x.start - 6, y.at(tick) + 4, short(tick), "end")
    label(plot, (x.start + x.end) / 2, y.start + 34, names[0], "mid name")
    turned = node("text", {"transform": f"translate(13 {number((y.start + y.end) / 2)}) rotate(-90)"}, names[1])
    turned.set("class", "mid name")
    plot.append(turned)


def round_ticks(low: float, high: float) -> tuple[float, ...]:
    """Returns a few round values from ``low`` to ``high``."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in _MANTISSAS:
        ticks = [mantissa * 10.0**decade for decade in decades for mantissa in mantissas]
        inside = tuple(tick for tick in ticks if low <= tick <= high)
        if len(inside) <= _MOST:
            return inside
    return inside[:: math.ceil(len(inside) / _MOST)]


def _axis(values: list[float], start: float, end: float, ticks: Sequence[float]) -> Axis:
    """Leaves some room at both ends, and more where there would be too few ticks to read a value by."""
    low, high = min(values), max(values)
    room = max(1.12, (high / low) ** 0.05, 3.0 / (high / low) ** 0.5)
    low, high = low / room, high * room
    return Axis(low=low, high=high, start=start, end=end, ticks=tuple(ticks) or round_ticks(low, high))
