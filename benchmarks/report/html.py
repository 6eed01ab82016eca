"""Render the report as one HTML page without scripts, fonts or links to other sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from benchmarks.report import tables
from benchmarks.report.analysis import Section, Study
from benchmarks.report.caveats import caveats, ceilings_table, machine_table, method, skipped_table
from benchmarks.report.format import count, listing, printable
from benchmarks.report.plots import Plot, latency_plots, parity_plot, roofline_plot, steps_plot, throughput_plot
from benchmarks.report.summary import summarize_section
from benchmarks.report.table import Table


def render_html(study: Study) -> str:
    """Return a study as an HTML page. The template escapes every value."""
    results = study.results
    page = load_template("report.html.j2").render(
        study=study,
        caveats=caveats(study),
        glance=tables.glance_table(study),
        sections=[(section, summarize_section(section, study), _parts(section, study)) for section in study.sections],
        machine_tables=[machine_table(results.machine), ceilings_table(results), skipped_table(results)],
        method=method(results),
        count=count,
        listing=listing,
    )
    return printable(page).lstrip()


def load_template(name: str, finalize: Callable[[object], object] | None = None) -> Template:
    """Return a template that escapes every value, after ``finalize`` if that is given."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _parts(section: Section, study: Study) -> list[tuple[str, list[Plot], list[Table]]]:
    """Return the questions that a section answers, each with its plots and tables."""
    if not section.rows:
        return []
    plots = [*latency_plots(section), throughput_plot(section, study), steps_plot(section)]
    plots.append(roofline_plot(section, study.results.ceilings))
    times = [
        tables.times_table(section, "end_to_end"),
        tables.times_table(section, "graph"),
        tables.steps_table(section),
    ]
    parts: list[tuple[str, Sequence[Plot | None], list[Table]]] = [
        (
            "Are the vectors right?",
            [parity_plot(section)],
            [tables.parity_table(section.rows), tables.worst_items_table(section)],
        ),
        ("How fast is it?", plots, [*times, tables.roofline_table(section)]),
        ("What do a million embeddings cost?", [], [tables.cost_table(section, study)]),
        ("Which settings suit this machine?", [], [tables.settings_table(section, study)]),
    ]
    return [
        (name, [plot for plot in drawn if plot], [table for table in found if table.rows or table.note])
        for name, drawn, found in parts
    ]
