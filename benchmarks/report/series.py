"""How each way to embed looks in every plot of a tower: a colour, a marker and a dash that no other one shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from benchmarks.report.node import node, number
from benchmarks.report.recommendations import OURS

COLOURS = 7  # in style.css; Source: Okabe and Ito, Color Universal Design, https://jfly.uni-koeln.de/color/
MARKERS = (
    "M-3.5 0A3.5 3.5 0 1 0 3.5 0A3.5 3.5 0 1 0 -3.5 0Z",
    "M-3.2 -3.2H3.2V3.2H-3.2Z",
    "M0 -4.4L4 2.8H-4Z",
    "M0 -4.6L4.6 0L0 4.6L-4.6 0Z",
    "M0 4.4L4 -2.8H-4Z",
    "M-1.3 -4H1.3V-1.3H4V1.3H1.3V4H-1.3V1.3H-4V-1.3H-1.3Z",
    "M-4 -2H4V2H-4Z",
    "M-2 -4H2V4H-2Z",
)
_DASHES = ("6 3", "2 3", "9 3 2 3")


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one way to embed is drawn.

    Attributes:
        position: Which one of its tower it is, from 0.
        dash: Of its lines; empty for a whole line, which only this project's own have.
    """

    position: int
    dash: str

    @property
    def colour(self) -> str:
        """Class of its colour."""
        return f"c{self.position % COLOURS}"

    def marker(self, x: float, y: float, told: str = "", *, hollow: bool = False) -> Element:
        """Returns its marker at a place, which tells ``told`` when it is pointed at."""
        place: dict[str, str | float] = {"href": f"#m{self.position % len(MARKERS)}", "x": x, "y": y}
        if hollow:
            place["class"] = "hollow"
        return node("use", place, *([node("title", None, told)] if told else []))

    def line(self, points: Sequence[tuple[float, float]]) -> Element:
        """Returns a line through ``points``."""
        steps = "L".join(f"{number(x)} {number(y)}" for x, y in points)
        dash: dict[str, str | float] = {"stroke-dasharray": self.dash} if self.dash else {}
        return node("path", {"class": "line", "d": f"M{steps}"} | dash)


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """Returns how each of ``labels`` is drawn."""
    dashes = ["" if label.startswith(f"{OURS} ") else _DASHES[n % len(_DASHES)] for n, label in enumerate(labels)]
    return {label: Style(position=n, dash=dashes[n]) for n, label in enumerate(labels)}


def legend(labels: Sequence[str], drawn: dict[str, Style]) -> Element:
    """Returns the names of what a plot shows, each beside how it is drawn."""
    entries = []
    for label in labels:
        style = drawn[label]
        sample = node("g", {"class": style.colour}, style.line([(0, 7), (30, 7)]), style.marker(15, 7))
        picture = node("svg", {"viewBox": "0 0 30 14", "class": "swatch", "aria-hidden": "true"}, sample)
        entries.append(node("li", None, picture, label))
    return node("ul", {"class": "legend"}, *entries)


def definitions() -> Element:
    """Returns the markers and hatchings that all plots of a page refer to."""
    markers = [node("path", {"id": f"m{n}", "class": "marker", "d": path}) for n, path in enumerate(MARKERS)]
    hatchings = [
        _hatching(n, path) for n, path in enumerate(("", "M-2 8L8 -2M3 13L13 3", "M-2 2L8 12M3 -3L13 7", "M5 0V10"))
    ]
    hidden = {"width": "0", "height": "0", "class": "definitions", "aria-hidden": "true"}
    return node("svg", hidden, node("defs", None, *markers, *hatchings))


def _hatching(position: int, path: str) -> Element:
    size: dict[str, str | float] = {
        "id": f"h{position}",
        "width": "10",
        "height": "10",
        "patternUnits": "userSpaceOnUse",
    }
    return node("pattern", size, node("path", {"class": "hatching", "d": path}))
