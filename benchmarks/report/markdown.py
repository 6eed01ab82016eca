"""The report as Markdown, short enough for a pull request."""

from __future__ import annotations

import re

from benchmarks.report.analysis import Section, Study, study
from benchmarks.report.caveats import caveats, machine_table, method, skipped_table
from benchmarks.report.summary import summary
from benchmarks.report.table import Cell, Table
from benchmarks.report.tables import (
    cost_table,
    glance_table,
    lowest,
    parity_table,
    settings_table,
    stages_table,
    times_table,
)
from benchmarks.results.prices import Prices
from benchmarks.results.schema import Results

_SIGNS = re.compile(r"([\\`*_\[\]|~#!])")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def render_markdown(results: Results, prices: Prices | None) -> str:
    """Returns ``results`` as Markdown of GitHub's kind.

    Args:
        results: What was measured.
        prices: What machines cost; ``None`` if nobody said.
    """
    return pull_request(study(results, prices))


def pull_request(whole: Study) -> str:
    """Returns the Markdown of a study."""
    results = whole.results
    parts = [
        f"# Benchmarks on {escape(results.machine.name)}",
        f"{escape(results.date)}, by {_code(results.command)}",
        *(f"> **Beware:** {escape(caveat)}" for caveat in caveats(whole)),
        _table(glance_table(whole)),
        *(part for section in whole.sections for part in _section(section, whole)),
        _folded(machine_table(results.machine)),
        _folded(skipped_table(results)),
        _details("Method", "\n\n".join(map(escape, method(results)))),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def escape(text: str) -> str:
    """Returns ``text`` as Markdown that shows it as it is, on one line, also in a cell."""
    text = _UNPRINTABLE.sub(" ", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SIGNS.sub(r"\\\1", text)


def _section(section: Section, whole: Study) -> list[str]:
    tables = (parity_table(lowest(section)), times_table(section, "end_to_end"), times_table(section, "graph"))
    return [
        f"## {escape(section.title)}",
        "\n".join(f"- {escape(sentence)}" for sentence in summary(section, whole)),
        _table(settings_table(section, whole)),
        *(_folded(table) for table in (*tables, stages_table(section), cost_table(section, whole))),
    ]


def _folded(table: Table) -> str:
    return _details(table.title, _table(table)) if table.rows else ""


def _details(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>\n\n{body}\n\n</details>"


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    rule = ["---" if n < table.words else "---:" for n in range(len(table.header))]
    rows = [[escape(name) for name in table.header], rule, *([_cell(cell) for cell in row] for row in table.rows)]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{lines}\n\n{escape(table.note)}".rstrip()


def _cell(cell: Cell) -> str:
    text = _code(cell.text) if cell.code and cell.text else escape(cell.text)
    return " ".join(filter(None, (text, escape(cell.aside), f"**{escape(cell.mark)}**" if cell.mark else "")))


def _code(text: str) -> str:
    """Returns ``text`` set as code by HTML, in which no sign can end it early."""
    return f"<code>{escape(text)}</code>"
