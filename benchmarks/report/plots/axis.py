"""Axes, most of them logarithmic: positions of values, round ticks, and the grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from benchmarks.report.format import short
from benchmarks.report.plots.svg import HEIGHT, WIDTH, join, path, text, upward_name

_MANTISSAS = ((1, 2, 5), (1, 3), (1,))  # the first that gives at most _MOST_TICKS is used
_MOST_TICKS = 7


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A logarithmic axis."""

    low: float  # value at the start.
    high: float  # value at the end.
    start: float  # pixel of the start.
    end: float  # pixel of the end.
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Return the pixel of a positive value."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True, kw_only=True)
class LinearAxis(Axis):
    """An axis on which equal distances are equal differences."""

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def drawable(value: float) -> bool:
    """Tell whether a logarithmic axis can show ``value``."""
    return math.isfinite(value) and value > 0


def horizontal_axis(values: Sequence[float], ticks: Sequence[float] = (), right: float = 14) -> Axis:
    """Return the horizontal axis for positive ``values``, with ``ticks`` or round ones."""
    return _axis(values, 60, WIDTH - right, ticks)  # room for the names and ticks of the other axis


def linear_axis(values: Sequence[float]) -> LinearAxis:
    """Return a horizontal axis from 0 on for positive ``values``."""
    high = 1.05 * max(values)
    decade = 10.0 ** math.floor(math.log10(high))
    step = next(step for step in (decade / 5, decade / 2, decade, 2 * decade) if high / step <= _MOST_TICKS)
    ticks = tuple(step * number for number in range(int(high / step) + 1))
    return LinearAxis(low=0.0, high=high, start=60, end=WIDTH - 14, ticks=ticks)


def vertical_axis(values: Sequence[float]) -> Axis:
    """Return the vertical axis for positive ``values``."""
    return _axis(values, HEIGHT - 42, 12, ())


def draw_axes(x: Axis, y: Axis, x_name: str, y_name: str) -> Markup:
    """Return the grid, the ticks and the names of both axes."""
    columns = "".join(f"M{x.at(tick):.1f} {y.start:.1f}V{y.end:.1f}" for tick in x.ticks)
    lines = "".join(f"M{x.start:.1f} {y.at(tick):.1f}H{x.end:.1f}" for tick in y.ticks)
    return join(
        (
            path("grid", columns + lines),
            *(text(x.at(tick), y.start + 15, short(tick), "mid") for tick in x.ticks),
            *(text(x.start - 6, y.at(tick) + 4, short(tick), "end") for tick in y.ticks),
            text((x.start + x.end) / 2, y.start + 34, x_name, "mid name"),
            upward_name(13, (y.start + y.end) / 2, y_name),
        )
    )


def round_ticks(low: float, high: float) -> tuple[float, ...]:
    """Return a few round values from ``low`` to ``high``."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in _MANTISSAS:
        ticks = [mantissa * 10.0**decade for decade in decades for mantissa in mantissas]
        inside = tuple(tick for tick in ticks if low <= tick <= high)
        if len(inside) <= _MOST_TICKS:
            return inside
    return inside[:: math.ceil(len(inside) / _MOST_TICKS)]


def _axis(values: Sequence[float], start: float, end: float, ticks: Sequence[float]) -> Axis:
    """Leave room at both ends, and more of it where the values alone would give too few ticks."""
    low, high = min(values), max(values)
    room = max(1.12, (high / low) ** 0.05, 3.0 / (high / low) ** 0.5)
    low, high = low / room, high * room
    return Axis(low=low, high=high, start=start, end=end, ticks=tuple(ticks) or round_ticks(low, high))
