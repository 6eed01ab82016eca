"""Elements of HTML and SVG. What is put into them is escaped when they are written, so no name can break out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree.ElementTree import Element, SubElement, tostring

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
Child = Element | str


def node(tag: str, attributes: Mapping[str, str | float] | None = None, *children: Child) -> Element:
    """Returns an element.

    Args:
        tag: Its name.
        attributes: Its attributes; numbers are written with one decimal, which is a tenth of a pixel.
        *children: Elements and texts, in their order.
    """
    element = Element(tag, {name: _value(value) for name, value in (attributes or {}).items()})
    for child in children:
        append(element, child)
    return element


def append(element: Element, child: Child) -> None:
    """Adds ``child`` to the end of ``element``."""
    if isinstance(child, Element):
        element.append(child)
    elif len(element):
        element[-1].tail = (element[-1].tail or "") + printable(child)
    else:
        element.text = (element.text or "") + printable(child)


def label(parent: Element, x: float, y: float, text: str, kind: str) -> None:
    """Writes ``text`` at a place of a plot, in the style ``kind``."""
    SubElement(parent, "text", {"x": _value(x), "y": _value(y), "class": kind}).text = printable(text)


def printable(text: str) -> str:
    """Returns ``text`` with a mark in place of each character that XML or UTF-8 has no place for."""
    return _UNPRINTABLE.sub("\ufffd", text)


def write(element: Element) -> str:
    """Returns the HTML of ``element``."""
    return tostring(element, encoding="unicode", method="html")


def number(value: float) -> str:
    """Returns a coordinate with one decimal at most."""
    return f"{value:.1f}".removesuffix(".0")


def _value(value: str | float) -> str:
    return printable(value) if isinstance(value, str) else number(value)
