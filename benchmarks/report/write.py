"""Writes a report into its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from benchmarks.report.analysis import Study, study
from benchmarks.report.html import page
from benchmarks.report.markdown import pull_request
from benchmarks.results.prices import Prices
from benchmarks.results.schema import RESULTS_FILE, Results
from runtime.atomic_write import write_text
from runtime.errors import OutputError

Format = Literal["html", "md", "json"]
FILES: dict[Format, str] = {"html": "report.html", "md": "report.md", "json": RESULTS_FILE}


def write_report(results: Results, folder: Path, formats: Sequence[Format], prices: Prices | None = None) -> list[Path]:
    """Writes ``results`` in each format, every file whole or not at all.

    Args:
        results: What was measured.
        folder: Where to; it is made if it is not there.
        formats: ``html``, ``md`` and ``json``.
        prices: What machines cost; without them there are no costs in the report.

    Returns:
        The files, in the order of ``formats``.

    Raises:
        OutputError: The folder cannot be made, or a file cannot be written.
    """
    whole = study(results, prices)
    texts = {folder / FILES[name]: _render(whole, name) for name in formats}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"{folder} cannot be made ({exc.strerror}); name another folder for the report") from exc
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def _render(whole: Study, name: Format) -> str:
    if name == "html":
        return page(whole)
    return pull_request(whole) if name == "md" else whole.results.to_json()
