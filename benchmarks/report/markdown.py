"""Render the report as Markdown that fits into a pull request."""

from __future__ import annotations

import re
from collections.abc import Mapping

from markupsafe import Markup

from benchmarks.report.analysis import Study
from benchmarks.report.html import load_template

_SIGNS = re.compile(r"([\\`*_\[\]|~#!])")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def render_markdown(study: Study) -> str:
    """Return a study as GitHub Flavored Markdown."""
    return fill_markdown("report.md.j2", {"study": study})


def fill_markdown(template: str, content: Mapping[str, object]) -> str:
    """Return the Markdown that a template makes of ``content``. The template escapes every value."""
    text = load_template(template, finalize=escape).render(content)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def escape(value: object) -> Markup:
    """Return text as Markdown that shows it unchanged, on one line and in a table cell; keep ``Markup``."""
    if isinstance(value, Markup):
        return value
    text = _UNPRINTABLE.sub(" ", str(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(_SIGNS.sub(r"\\\1", text))  # noqa: S704 - escaped in the lines above
