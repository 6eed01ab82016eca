"""Write a report into a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from benchmarks.report.analysis import Study, analyze
from benchmarks.report.html import render_html
from benchmarks.report.markdown import render_markdown
from benchmarks.results.prices import Prices
from benchmarks.results.schema import RESULTS_FILE, Results
from runtime.atomic_write import write_text
from runtime.errors import OutputError

Format = Literal["html", "md", "json"]
FILES: dict[Format, str] = {"html": "report.html", "md": "report.md", "json": RESULTS_FILE}
_RENDERERS: dict[Format, Callable[[Study], str]] = {
    "html": render_html,
    "md": render_markdown,
    "json": lambda study: study.results.to_json(),
}


def write_report(results: Results, folder: Path, formats: Sequence[Format], prices: Prices | None = None) -> list[Path]:
    """Write ``results`` in each format, every file whole or not at all.

    ``folder`` is created if it does not exist. Without ``prices``, the report has no costs.

    Returns:
        The paths of the files, in the order of ``formats``.

    Raises:
        OutputError: The folder cannot be created, or a file cannot be written.
    """
    study = analyze(results, prices)
    texts = {folder / FILES[name]: _RENDERERS[name](study) for name in formats}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"cannot create {folder} ({exc.strerror}); choose another folder for the report") from exc
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)
