"""Read the pages of a report."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Reader(HTMLParser):
    """Check that elements are closed in order, and collect tags, ids and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "srcset", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def check_page(page: str) -> Reader:
    """Check that ids are unique, that links have a target, and that no drawing has a NaN or infinity."""
    reader = read(page)
    assert len(set(reader.ids)) == len(reader.ids)
    assert {address.removeprefix("#") for address in reader.addresses} <= set(reader.ids)
    for drawing in drawings(page):
        values = [value for element in drawing.iter() for value in element.attrib.values()]
        assert not any("nan" in value or "inf" in value for value in values)
    return reader


def drawings(page: str) -> list[ET.Element]:
    return [ET.fromstring(svg) for svg in re.findall(r"<svg viewBox=.*?</svg>", page, re.S)]  # noqa: S314 - our own


def columns(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))
