"""Plots with a line per setup: the steps of a call, and the distance from torch's vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

from markupsafe import Markup

from benchmarks.report.analysis import Row, Section
from benchmarks.report.format import cosine, count, digits, percent
from benchmarks.report.plots.axis import Axis
from benchmarks.report.plots.series import COLOURS, Style, styles
from benchmarks.report.plots.svg import WIDTH, Plot, group, join, number, path, text
from benchmarks.results.schema import CaseParity

_LINE = 36  # height of a name and the bar below it
_HATCHINGS = 4  # in markers.svg; the first is none
_EXACT = 1e-16  # position of a cosine of 1, which a logarithmic axis cannot show


def steps_plot(section: Section) -> Plot | None:
    """Return the share of each step of a call, for the smallest and the largest batch of each setup."""
    rows = [row for row in _smallest_and_largest(section) if sum(row.case.stages.values()) > 0]
    if not rows:
        return None
    names = tuple(dict.fromkeys(name for row in rows for name in row.case.stages))
    return Plot(
        title="Time per step of a call",
        description="Stacked bars with the share of each step; a table below has the values.",
        height=_LINE * len(rows) + 4,
        body=join(part for n, row in enumerate(rows) for part in _stack(n * _LINE, row, names)),
        legend=tuple((_step(0, 0, 28 / (WIDTH - 4), n, ""), name) for n, name in enumerate(names)),
        note="Shown for the smallest and the largest batch; a table below has all.",
    )


def parity_plot(section: Section) -> Plot | None:
    """Return the distance of each setup's worst item from a cosine of 1."""
    found = {label: _parities(section, label) for label in section.labels}
    found = {label: parities for label, parities in found.items() if parities}
    if not found:
        return None
    bottom = _LINE * len(found) + 6
    distances = [_distance(parity) for parities in found.values() for _, parity in parities]
    x = _distance_axis(distances)
    looks = styles(section)
    lines = (_dots(x, n * _LINE, label, found[label], looks[label]) for n, label in enumerate(found))
    worst = {label: min(parity.min_cosine for _, parity in parities) for label, parities in found.items()}
    return Plot(
        title="Distance from torch's vectors",
        description="; ".join(f"{label}: smallest cosine {cosine(value)}" for label, value in worst.items()),
        height=bottom + 40,
        body=join([*_draw_axis(x, bottom), *(part for line in lines for part in line)]),
        legend=(),
        note="The worst item of each case; further left is closer to torch."
        + (" A cosine of 1 is drawn at 1e-16." if _EXACT in distances else ""),
    )


def _smallest_and_largest(section: Section) -> list[Row]:
    """Return the rows with the fewest and the most items of each setup whose steps were timed."""
    ends: list[Row] = []
    for label in section.labels:
        own = sorted((r for r in section.rows if r.case.stages and r.label == label), key=lambda row: row.case.items)
        ends += [own[0], own[-1]] if len(own) > 1 else own
    return ends


def _stack(top: float, row: Row, names: Sequence[str]) -> Iterator[Markup]:
    total = sum(row.case.stages.values())
    yield text(2, top + 14, f"{row.label}, {count(row.case.items, 'item')}", "start")
    yield text(WIDTH - 2, top + 14, f"{digits(1000 * total)} ms", "end")
    shares = [row.case.stages.get(name, 0.0) / total for name in names]
    for n, (start, share) in enumerate(zip(accumulate([0.0, *shares]), shares, strict=False)):
        if share:
            yield _step(top + 19, start, share, n, f"{names[n]} {percent(share)}")


def _step(top: float, start: float, share: float, position: int, title: str) -> Markup:
    """Return a hatched bar, with its title inside if it is long enough."""
    x, width = 2 + start * (WIDTH - 4), max(0.5, share * (WIDTH - 4) - 1)
    box = Markup('<rect x="{}" y="{}" width="{}" height="14" ').format(number(x), number(top), number(width))
    hatching = box + Markup('fill="url(#h{})"/>').format(position % _HATCHINGS) if position % _HATCHINGS else Markup()
    parts = [Markup("<title>{}</title>").format(title), box + Markup('class="step"/>'), hatching]
    label = text(x + width / 2, top + 11, title, "mid step-name") if title and width > 7 * len(title) else Markup()
    return group(f"c{position % COLOURS}", parts) + label


def _parities(section: Section, label: str) -> list[tuple[Row, CaseParity]]:
    rows = [(row, row.case.parity) for row in section.rows if row.label == label]
    return [(row, parity) for row, parity in rows if parity.with_torch and math.isfinite(parity.min_cosine)]


def _distance(parity: CaseParity) -> float:
    return max(1 - parity.min_cosine, _EXACT)


def _distance_axis(values: Sequence[float]) -> Axis:
    """Return an axis of whole powers of ten around ``values``."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)
    high = max(high, low + 2)
    ticks = tuple(10.0**power for power in range(low, high + 1, math.ceil((high - low) / 7)))
    return Axis(low=10.0**low, high=10.0**high, start=20, end=WIDTH - 22, ticks=ticks)


def _draw_axis(x: Axis, bottom: float) -> Iterator[Markup]:
    yield path("grid", "".join(f"M{x.at(tick):.1f} 2V{bottom:.1f}" for tick in x.ticks))
    for tick in x.ticks:
        exponent = round(math.log10(tick))
        yield text(x.at(tick), bottom + 14, f"1e{exponent}" if exponent else "1", "mid")
    yield text(WIDTH / 2, bottom + 32, "1 - smallest cosine of an item", "mid name")


def _dots(
    x: Axis, top: float, label: str, parities: Sequence[tuple[Row, CaseParity]], style: Style
) -> Iterator[Markup]:
    yield text(2, top + 14, label, "start halo")
    yield text(WIDTH - 2, top + 14, cosine(min(parity.min_cosine for _, parity in parities)), "end halo")
    rail = path("rail", f"M{x.start:.1f} {top + 26:.1f}H{x.end:.1f}")
    dots = ((x.at(_distance(parity)), row.case.items, cosine(parity.min_cosine)) for row, parity in parities)
    markers = (style.marker(at, top + 26, f"batch size {items}: cosine {value}") for at, items, value in dots)
    yield group(style.colour, [rail, *markers])
