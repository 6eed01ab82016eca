"""The report as one HTML page that needs nothing else: no script, no font, no address."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from benchmarks.report.analysis import Section, Study, study
from benchmarks.report.bars import parity_plot, stages_plot
from benchmarks.report.caveats import caveats, ceilings_table, machine_table, method, skipped_table
from benchmarks.report.format import count, listing
from benchmarks.report.node import Child, node, write
from benchmarks.report.plots import Plot, latency_plots, roofline_plot, throughput_plot
from benchmarks.report.series import definitions
from benchmarks.report.summary import summary
from benchmarks.report.table import Cell, Table
from benchmarks.report.tables import (
    cost_table,
    glance_table,
    parity_table,
    roofline_table,
    settings_table,
    stages_table,
    times_table,
    worst_table,
)
from benchmarks.results.prices import Prices
from benchmarks.results.schema import Results

_STYLE = Path(__file__).with_name("style.css")
_OPEN_ROWS = 8  # longer tables are folded
_LONG = 36  # more characters are broken into lines
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render_html(results: Results, prices: Prices | None) -> str:
    """Returns ``results`` as a page.

    Args:
        results: What was measured.
        prices: What machines cost; ``None`` if nobody said.
    """
    return page(study(results, prices))


def page(whole: Study) -> str:
    """Returns the page of a study."""
    title = f"Benchmarks on {whole.results.machine.name}"
    root = node("html", {"lang": "en"}, _head(title), _body(title, whole))
    return f"<!DOCTYPE html>\n{write(root)}\n"


def _head(title: str) -> Element:
    return node(
        "head",
        None,
        node("meta", {"charset": "utf-8"}),
        node("meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        node("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        node("meta", {"name": "color-scheme", "content": "light dark"}),
        node("title", None, title),
        node("style", None, _STYLE.read_text("utf-8")),
    )


def _body(title: str, whole: Study) -> Element:
    sections = [_section(n, section, whole) for n, section in enumerate(whole.sections)]
    return node(
        "body",
        None,
        definitions(),
        _header(title, whole),
        _navigation(whole),
        node("main", None, *sections, _end(whole)),
    )


def _header(title: str, whole: Study) -> Element:
    results = whole.results
    warnings = [node("li", None, caveat) for caveat in caveats(whole)]
    return node(
        "header",
        None,
        node("h1", None, title),
        node("p", None, listing([artifact.name for artifact in results.artifacts]) or "Nothing was measured."),
        node("p", {"class": "made"}, f"{results.date}, by ", node("code", None, results.command)),
        *([node("ul", {"class": "caveats", "aria-label": "warnings"}, *warnings)] if warnings else []),
        *_tables([glance_table(whole)], folded=False),
    )


def _navigation(whole: Study) -> Element:
    links = [node("a", {"href": f"#s{n}"}, section.title) for n, section in enumerate(whole.sections)]
    ends = [node("a", {"href": "#machine"}, "Machine"), node("a", {"href": "#method"}, "Method")]
    return node("nav", {"aria-label": "artifacts"}, *links, *ends)


def _section(position: int, section: Section, whole: Study) -> Element:
    artifact = section.artifact
    about = f"{artifact.architecture}, {artifact.task}, {artifact.output_dim} dimensions, seal {artifact.seal[:12]}"
    return node(
        "section",
        {"id": f"s{position}"},
        node("h2", None, section.title),
        node("p", {"class": "made"}, f"{artifact.backbone}: {about}. Weights: {artifact.weights}."),
        node("ul", {"class": "summary"}, *(node("li", None, sentence) for sentence in summary(section, whole))),
        *(_parts(section, whole) if section.rows else []),
    )


def _parts(section: Section, whole: Study) -> list[Element]:
    speed = [*latency_plots(section), throughput_plot(section, whole), stages_plot(section)]
    roofline = roofline_plot(section, whole.results.ceilings)
    times = [times_table(section, "end_to_end"), times_table(section, "graph"), stages_table(section)]
    return [
        *_part("Is it right?", [parity_plot(section)], [parity_table(section.rows), worst_table(section)]),
        *_part("How fast is it?", [*speed, roofline], [*times, roofline_table(section)]),
        *_part("What does a million cost?", [], [cost_table(section, whole)]),
        *_part("Which settings on this machine?", [], [settings_table(section, whole)]),
    ]


def _part(question: str, plots: Sequence[Plot | None], tables: Sequence[Table]) -> list[Element]:
    drawn = [_figure(plot) for plot in plots if plot]
    figures = [node("div", {"class": "plots"}, *drawn)] if drawn else []
    found = [*figures, *_tables(tables, folded=True)]
    return [node("h3", None, question), *(found or [node("p", {"class": "note"}, "Not measured.")])]


def _figure(plot: Plot) -> Element:
    below = [plot.legend] if plot.legend is not None else []
    note = node("p", {"class": "note"}, plot.note)
    return node("figure", None, node("figcaption", None, plot.title), plot.drawing, *below, note)


def _tables(tables: Sequence[Table], *, folded: bool) -> list[Element]:
    return [_table(table, folded=folded) for table in tables if table.rows or table.note]


def _table(table: Table, *, folded: bool) -> Element:
    note = [node("p", {"class": "note"}, table.note)] if table.note else []
    grid = [_grid(table)] if table.rows else []
    if not folded or not grid:
        return node("div", None, node("h4", None, table.title), *grid, *note)
    state = {"open": "open"} if len(table.rows) <= _OPEN_ROWS else {}
    title = node("summary", None, f"{table.title} ", node("small", None, count(len(table.rows), "row")))
    return node("details", state, title, *grid, *note)


def _grid(table: Table) -> Element:
    header = node("tr", None, *(_cell("th", n, Cell(text=name), table) for n, name in enumerate(table.header)))
    rows = [node("tr", None, *(_cell("td", n, cell, table) for n, cell in enumerate(row))) for row in table.rows]
    grid = node("table", None, node("thead", None, header), node("tbody", None, *rows))
    return node("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": table.title}, grid)


def _cell(tag: str, position: int, cell: Cell, table: Table) -> Element:
    text: Child = node("code", None, cell.text) if cell.code and cell.text else cell.text
    aside: list[Child] = [" ", node("small", None, cell.aside)] if cell.aside else []
    mark: list[Child] = [" ", node("em", None, cell.mark)] if cell.mark else []
    left = position < table.words or any(row[position].code for row in table.rows)
    kind = {"class": "w long" if len(cell.text) > _LONG else "w"} if left else {}
    scope = {"scope": "col"} if tag == "th" else {}
    return node(tag, kind | scope, text, *aside, *mark)


def _end(whole: Study) -> Element:
    results = whole.results
    tables = [machine_table(results.machine), ceilings_table(results), skipped_table(results)]
    paragraphs = [node("p", None, paragraph) for paragraph in method(results)]
    return node(
        "section",
        {"id": "machine"},
        node("h2", None, "Machine"),
        *_tables(tables, folded=False),
        node("h2", {"id": "method"}, "Method"),
        *paragraphs,
    )
