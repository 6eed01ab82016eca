"""The plots of a tower that have a line for each way to embed: what the steps of a call take, and parity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from xml.etree.ElementTree import Element

from benchmarks.report.analysis import Row, Section
from benchmarks.report.axis import WIDTH, Axis, frame
from benchmarks.report.format import NONE, cosine, count, digits, percent
from benchmarks.report.node import label, node, number
from benchmarks.report.plots import Plot
from benchmarks.report.series import COLOURS, Style, styles
from benchmarks.results.schema import CaseParity

_LINE = 36  # pixels for a name and what is drawn below it
_HATCHINGS = 4
_EXACT = 1e-16  # where a cosine of one is drawn, there being no place for it


def stages_plot(section: Section) -> Plot | None:
    """Returns the shares of the steps of a call, for each way to embed at its fewest and its most items."""
    rows = [row for row in _ends(section) if sum(row.case.stages.values()) > 0]
    if not rows:
        return None
    names = tuple(dict.fromkeys(name for row in rows for name in row.case.stages))
    plot = frame("Steps of a call", "Shares of the steps, stacked; see the table.", _LINE * len(rows) + 4)
    for n, row in enumerate(rows):
        _stack(plot, n * _LINE, row, names)
    note = "Each for the fewest and the most items a call; all are in the table."
    return Plot(title="Steps of a call", drawing=plot, legend=_steps_legend(names), note=note)


def parity_plot(section: Section) -> Plot | None:
    """Returns what each way to embed lacks to a cosine of one, at its worst item."""
    found = {name: _parities(section, name) for name in section.labels}
    found = {name: parities for name, parities in found.items() if parities}
    if not found:
        return None
    bottom = _LINE * len(found) + 6
    plot = frame("Distance to torch's vectors", _told(found), bottom + 40)
    x = _distance_axis([_lacking(parity) for parities in found.values() for _, parity in parities])
    _draw_axis(plot, x, bottom)
    for n, (name, parities) in enumerate(found.items()):
        _dots(plot, x, n * _LINE, (name, parities, styles(section.labels)[name]))
    exact = any(_lacking(parity) == _EXACT for parities in found.values() for _, parity in parities)
    note = "The worst item of each case; further left is closer." + (" A cosine of 1 stands at 1e-16." if exact else "")
    return Plot(title="Distance to torch's vectors", drawing=plot, legend=None, note=note)


def _ends(section: Section) -> list[Row]:
    """Returns, of the rows whose steps are known, those with the fewest and the most items of each way to embed."""
    rows = [row for row in section.rows if row.case.stages]
    ends: list[Row] = []
    for name in section.labels:
        own = sorted((row for row in rows if row.label == name), key=lambda row: row.case.items)
        ends += [own[0], own[-1]] if len(own) > 1 else own
    return ends


def _stack(plot: Element, top: float, row: Row, names: Sequence[str]) -> None:
    total = sum(row.case.stages.values())
    label(plot, 2, top + 14, f"{row.label}, {count(row.case.items, 'item')}", "start")
    label(plot, WIDTH - 2, top + 14, f"{digits(1000 * total)} ms", "end")
    seconds = [row.case.stages.get(name, 0.0) for name in names]
    starts = [0.0, *accumulate(seconds)]
    for n, name in enumerate(names):
        if seconds[n]:
            _step(plot, top + 19, (starts[n] / total, seconds[n] / total), (n, name))


def _step(plot: Element, top: float, span: tuple[float, float], step: tuple[int, str]) -> None:
    (start, share), (position, name) = span, step
    x, width = 2 + start * (WIDTH - 4), max(0.5, share * (WIDTH - 4) - 1)
    told = f"{name} {percent(share)}"
    bar = node("g", {"class": f"c{position % COLOURS}"}, node("title", None, told))
    box: dict[str, str | float] = {"x": x, "y": top, "width": width, "height": 14}
    bar.append(node("rect", box | {"class": "step"}))
    if position % _HATCHINGS:
        bar.append(node("rect", box | {"fill": f"url(#h{position % _HATCHINGS})"}))
    plot.append(bar)
    if width > 7 * len(told):
        label(plot, x + width / 2, top + 11, told, "mid step-name")


def _steps_legend(names: Sequence[str]) -> Element:
    entries = []
    for n, name in enumerate(names):
        sample = node("svg", {"viewBox": "0 0 30 14", "class": "swatch", "aria-hidden": "true"})
        _step(sample, 0, (0, 28 / (WIDTH - 4)), (n, ""))
        entries.append(node("li", None, sample, name))
    return node("ul", {"class": "legend"}, *entries)


def _parities(section: Section, name: str) -> list[tuple[Row, CaseParity]]:
    rows = [(row, row.case.parity) for row in section.rows if row.label == name]
    return [(row, parity) for row, parity in rows if parity is not None and math.isfinite(parity.min_cosine)]


def _lacking(parity: CaseParity) -> float:
    return max(1 - parity.min_cosine, _EXACT)


def _told(found: dict[str, list[tuple[Row, CaseParity]]]) -> str:
    worst = {name: min(parity.min_cosine for _, parity in parities) for name, parities in found.items()}
    return "; ".join(f"{name}: smallest cosine {cosine(value)}" for name, value in worst.items())


def _distance_axis(values: Sequence[float]) -> Axis:
    """Returns an axis of whole powers of ten around ``values``."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)
    high = max(high, low + 2)
    step = math.ceil((high - low) / 7)
    ticks = tuple(10.0**power for power in range(low, high + 1, step))
    return Axis(low=10.0**low, high=10.0**high, start=20, end=WIDTH - 22, ticks=ticks)


def _draw_axis(plot: Element, x: Axis, bottom: float) -> None:
    path = "".join(f"M{number(x.at(tick))} 2V{number(bottom)}" for tick in x.ticks)
    plot.append(node("path", {"class": "grid", "d": path}))
    for tick in x.ticks:
        exponent = round(math.log10(tick))
        label(plot, x.at(tick), bottom + 14, f"1e{exponent}" if exponent else "1", "mid")
    label(plot, WIDTH / 2, bottom + 32, "1 - smallest cosine of an item, no unit", "mid name")


def _dots(plot: Element, x: Axis, top: float, line: tuple[str, list[tuple[Row, CaseParity]], Style]) -> None:
    name, parities, style = line
    worst = min(parity.min_cosine for _, parity in parities)
    label(plot, 2, top + 14, name, "start halo")
    label(plot, WIDTH - 2, top + 14, cosine(worst) or NONE, "end halo")
    group = node("g", {"class": style.colour})
    group.append(node("path", {"class": "rail", "d": f"M{number(x.start)} {number(top + 26)}H{number(x.end)}"}))
    for row, parity in parities:
        told = f"{count(row.case.items, 'item')} a call: {cosine(parity.min_cosine)}"
        group.append(style.marker(x.at(_lacking(parity)), top + 26, told))
    plot.append(group)
