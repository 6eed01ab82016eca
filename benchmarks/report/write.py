"""Write a report into a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.report.analysis import analyze
from benchmarks.report.html import render_html
from benchmarks.report.markdown import render_markdown
from benchmarks.results.prices import Prices
from benchmarks.results.schema import RESULTS_FILE, Results
from runtime.atomic_write import write_text
from runtime.errors import OutputError

Format = Literal["html", "md", "json"]
FILES: dict[Format, str] = {"html": "report.html", "md": "report.md", "json": RESULTS_FILE}


def write_report(results: Results, folder: Path, formats: Sequence[Format], prices: Prices | None = None) -> list[Path]:
    """Write ``results`` in each format, as :func:`write_files` does. Without ``prices``, the report has no costs."""
    study = analyze(results, prices)
    html, markdown = partial(render_html, study), partial(render_markdown, study)
    return write_files(folder, formats, {"html": html, "md": markdown, "json": results.to_json})


def write_files(folder: Path, formats: Sequence[Format], renderers: Mapping[Format, Callable[[], str]]) -> list[Path]:
    """Write a file in each format, whole or not at all, into ``folder``, which :func:`make_folder` creates.

    Returns:
        The paths of the files, in the order of ``formats``.

    Raises:
        OutputError: The folder cannot be created, or a file cannot be written.
    """
    make_folder(folder)
    for name in formats:
        write_text(folder / FILES[name], renderers[name]())
    return [folder / FILES[name] for name in formats]


def make_folder(folder: Path) -> None:
    """Create the folder of a report if it does not exist.

    Raises:
        OutputError: It cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"cannot create {folder} ({exc.strerror}); choose another folder for the report") from exc
