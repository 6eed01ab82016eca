"""Render the report as one HTML page without scripts, fonts or links to other sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from benchmarks.report import caveats, tables
from benchmarks.report.analysis import Section, Study
from benchmarks.report.format import count, listing, printable
from benchmarks.report.plots import Plot, latency_plots, parity_plot, roofline_plot, steps_plot, throughput_plot
from benchmarks.report.summary import summarize_section
from benchmarks.report.table import Table


def render_html(study: Study) -> str:
    """Return a study as an HTML page."""
    sections = [(section, _parts(section, study)) for section in study.sections]
    return fill_html("report.html.j2", {"study": study, "sections": sections})


def fill_html(template: str, content: Mapping[str, object]) -> str:
    """Return the page that a template makes of ``content``. The template escapes every value."""
    return printable(load_template(template).render(content)).lstrip()


def load_template(name: str, finalize: Callable[[object], object] | None = None) -> Template:
    """Return a template that escapes every value, after ``finalize`` if that is given. It can build all tables."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = {"caveats": caveats, "count": count, "listing": listing, "summarize": summarize_section, "tables": tables}
    return environment.get_template(name, globals=names)


def _parts(section: Section, study: Study) -> list[tuple[str, list[Plot], list[Table]]]:
    """Return the questions that a section answers, each with its plots and tables."""
    if not section.rows:
        return []
    plots = [*latency_plots(section), throughput_plot(section, study), steps_plot(section)]
    plots.append(roofline_plot(section, study.results.ceilings))
    times = [*tables.times_tables(section), tables.steps_table(section), tables.roofline_table(section)]
    parity = [tables.parity_table(section.rows), tables.worst_items_table(section)]
    parts: list[tuple[str, Sequence[Plot | None], list[Table]]] = [
        ("Are the vectors right?", [parity_plot(section)], parity),
        ("How fast is it?", plots, times),
        ("What do a million embeddings cost?", [], [tables.cost_table(section, study)]),
        ("Which settings suit this machine?", [], [tables.settings_table(section, study)]),
    ]
    return [
        (name, [plot for plot in drawn if plot], [table for table in found if table.rows or table.note])
        for name, drawn, found in parts
    ]
