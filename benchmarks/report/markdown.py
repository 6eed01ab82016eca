"""Render the report as Markdown that fits into a pull request."""

from __future__ import annotations

import re

from markupsafe import Markup

from benchmarks.report import tables
from benchmarks.report.analysis import Study
from benchmarks.report.caveats import caveats, machine_table, method, skipped_table
from benchmarks.report.html import load_template
from benchmarks.report.summary import summarize_section

_SIGNS = re.compile(r"([\\`*_\[\]|~#!])")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def render_markdown(study: Study) -> str:
    """Return a study as GitHub Flavored Markdown. The template escapes every value."""
    sections = []
    for section in study.sections:
        folded = (
            *(
                tables.parity_table(tables.worst_rows(section)),
                tables.times_table(section, "end_to_end"),
                tables.times_table(section, "graph"),
            ),
            *(tables.steps_table(section), tables.cost_table(section, study)),
        )
        sections.append((section, summarize_section(section, study), tables.settings_table(section, study), folded))
    text = load_template("report.md.j2", finalize=escape).render(
        study=study,
        caveats=caveats(study),
        glance=tables.glance_table(study),
        sections=sections,
        machine_tables=[machine_table(study.results.machine), skipped_table(study.results)],
        method=method(study.results),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def escape(value: object) -> Markup:
    """Return text as Markdown that shows it unchanged, on one line and in a table cell; keep ``Markup``."""
    if isinstance(value, Markup):
        return value
    text = _UNPRINTABLE.sub(" ", str(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(_SIGNS.sub(r"\\\1", text))  # noqa: S704 - escaped in the lines above
