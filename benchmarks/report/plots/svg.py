"""SVG elements. ``Markup.format`` escapes each value, so no name can break out of its element."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 420, 300


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot with its legend and note."""

    title: str
    description: str  # content of the plot, for screen readers.
    body: Markup
    legend: tuple[tuple[Markup, str], ...]  # sample and name of each series; empty if the plot names its series itself.
    note: str  # explanation below the plot.
    height: float = HEIGHT  # height in units of the view box.

    @property
    def svg(self) -> Markup:
        """The plot as an SVG element."""
        frame = Markup('<svg viewBox="0 0 {} {}" role="img"><title>{}</title><desc>{}</desc>{}</svg>')
        return frame.format(WIDTH, number(self.height), self.title, self.description, self.body)


def join(elements: Iterable[Markup]) -> Markup:
    """Return the elements one after another."""
    return Markup().join(elements)


def group(kind: str, elements: Iterable[Markup]) -> Markup:
    """Return the elements in a group of the class ``kind``."""
    return Markup('<g class="{}">{}</g>').format(kind, join(elements))


def text(x: float, y: float, words: str, kind: str) -> Markup:
    """Return text in the class ``kind``."""
    return Markup('<text x="{}" y="{}" class="{}">{}</text>').format(number(x), number(y), kind, words)


def upward_name(x: float, y: float, words: str) -> Markup:
    """Return the name of a vertical axis, which runs upward."""
    name = Markup('<text transform="translate({} {}) rotate(-90)" class="mid name">{}</text>')
    return name.format(number(x), number(y), words)


def path(kind: str, steps: str, dash: str = "") -> Markup:
    """Return a path of the class ``kind``; whole numbers in ``steps`` lose their ``.0``."""
    dashes = Markup(' stroke-dasharray="{}"').format(dash) if dash else ""
    return Markup('<path class="{}" d="{}"{}/>').format(kind, re.sub(r"\.0(?!\d)", "", steps), dashes)


def number(value: float) -> str:
    """Return a coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")
