"""The look of each setup in all plots of a tower: a colour, a marker and a dash."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from benchmarks.report.analysis import RUNTIME, Row, Section
from benchmarks.report.plots.svg import group, number, path

COLOURS = 7  # in style.css; Source: Okabe and Ito, Color Universal Design, https://jfly.uni-koeln.de/color/
MARKERS = 8  # in markers.svg
_DASHES = ("6 3", "2 3", "9 3 2 3")


@dataclass(frozen=True, kw_only=True)
class Style:
    """The look of a setup."""

    position: int  # position of the setup in its tower, from 0.
    dash: str  # dash pattern of its lines; empty for a solid line, which only this project's setups have.

    @property
    def colour(self) -> str:
        """CSS class of its colour."""
        return f"c{self.position % COLOURS}"

    def marker(self, x: float, y: float, title: str = "", *, hollow: bool = False) -> Markup:
        """Return its marker at a position; a browser shows ``title`` on hover."""
        kind = Markup(' class="hollow"') if hollow else ""
        inner = Markup("<title>{}</title>").format(title) if title else ""
        marker = Markup('<use href="#m{}" x="{}" y="{}"{}>{}</use>')
        return marker.format(self.position % MARKERS, number(x), number(y), kind, inner)

    def line(self, points: Iterable[tuple[float, float]]) -> Markup:
        """Return a line through ``points``."""
        return path("line", "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), self.dash)

    def sample(self) -> Markup:
        """Return a piece of its line with a marker, for a legend."""
        return group(self.colour, (self.line([(0, 7), (30, 7)]), self.marker(15, 7)))


def styles(section: Section) -> dict[str, Style]:
    """Return the look of each setup of a tower."""
    return {
        label: Style(position=n, dash="" if label.startswith(f"{RUNTIME} ") else _DASHES[n % len(_DASHES)])
        for n, label in enumerate(section.labels)
    }


def legend(section: Section, rows: Sequence[Row]) -> tuple[tuple[Markup, str], ...]:
    """Return a sample and the name of each setup in ``rows``."""
    shown = {row.label for row in rows}
    return tuple((style.sample(), label) for label, style in styles(section).items() if label in shown)
