"""Draw ``docs/images/layers.svg`` from the linter's layers; with ``--check``, exit with 1 if the picture is stale."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from generated import write_or_check

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/images/layers.svg"
COLOURS = {"benchmarks": "#8a4b08", "exporters": "#4f46c8", "runtime": "#1d5fd1"}  # readable with white letters
GREY = "#7d8590"  # readable on white and on black
HIDDEN = {"__main__", "version"}
WIDTH, MARGIN, LEFT, ROW, ARROW = 720, 8, 150, 38, 38
LETTER = 8.1  # width of a letter of 15 pixels, on average


def read_layers() -> dict[str, list[list[str]]]:
    """Return the rows of each package, the highest first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layers = {}
    for contract in contracts:
        for package in contract.get("containers", []):
            rows = [[name for name in layer.split(" : ") if name not in HIDDEN] for layer in contract["layers"]]
            layers[package] = [row for row in rows if row]
    return {package: layers[package] for package in COLOURS}


def draw_row(names: list[str], top: float, colour: str) -> Iterator[str]:
    """Yield a box for each name, from left to right."""
    left = float(LEFT)
    for name in names:
        width = len(name) * LETTER + 22
        yield f'<rect x="{left:g}" y="{top:g}" width="{width:g}" height="30" rx="6" fill="{colour}"/>'
        middle = f'x="{left + width / 2:g}" y="{top + 20:g}"'
        yield f'<text {middle} text-anchor="middle" font-size="15" fill="#ffffff">{name}</text>'
        left += width + 8


def draw_package(name: str, rows: list[list[str]], top: float) -> Iterator[str]:
    """Yield the frame, the name and the rows of one package."""
    frame = f'width="{WIDTH - 2 * MARGIN}" height="{height(rows)}" rx="10" fill="none" stroke="{GREY}"'
    yield f'<rect x="{MARGIN}" y="{top:g}" {frame} stroke-width="1.5"/>'
    yield f'<text x="24" y="{top + 30:g}" font-size="17" font-weight="600" fill="{GREY}">{name}</text>'
    for number, row in enumerate(rows):
        yield from draw_row(row, top + 12 + number * ROW, COLOURS[name])


def height(rows: list[list[str]]) -> int:
    """Return the height of a package's frame."""
    return 20 + len(rows) * ROW


def render() -> str:
    """Return the picture."""
    parts: list[str] = []
    top = MARGIN
    for name, rows in read_layers().items():
        if parts:
            parts.append(f'<path d="M80 {top - ARROW} V{top - 4}" stroke="{GREY}" stroke-width="2.5"/>')
            parts.append(f'<path d="M72 {top - 14} L80 {top} L88 {top - 14} Z" fill="{GREY}"/>')
            parts.append(f'<text x="96" y="{top - 14}" font-size="15" fill="{GREY}">may import</text>')
        parts += draw_package(name, rows, top)
        top += height(rows) + ARROW
    bottom = top - ARROW + MARGIN
    fonts = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
    size = f'viewBox="0 0 {WIDTH} {bottom}" width="{WIDTH}" height="{bottom}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{fonts}">'
    return "\n".join([head, "<title>The layers of the code</title>", *parts, "</svg>", ""])


if __name__ == "__main__":
    sys.exit(write_or_check(PICTURE, render()))
