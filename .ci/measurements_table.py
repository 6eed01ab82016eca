"""Write the tables of one report into README.md and docs/benchmarks.md; with ``--check``, compare instead."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from generated import write_or_check

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # benchmarks is not installed

from benchmarks.report import format as form  # noqa: E402
from benchmarks.report.analysis import Row, Section, analyze  # noqa: E402
from benchmarks.results.schema import RESULTS_FILE, Stage, read_results  # noqa: E402

REPORT = ROOT / "docs/reports/xeon-vnni-2-cores"
BEGIN, END = "<!-- %s: made by `make format` -->", "<!-- end of %s -->"
BASELINE = "torch eager"
COLUMNS: dict[Stage, dict[str, str]] = {
    "graph": {
        "fp32": "runtime fp32",
        "optimized": "runtime optimized",
        "int8": "runtime int8",
        "torch channels_last": "torch channels_last",
        "optimum's export": "optimum fp32",
        "OpenVINO": "openvino fp32",
    },
    "end_to_end": {
        "fp32": "runtime fp32",
        "optimized": "runtime optimized",
        "int8": "runtime int8",
        "sentence-transformers": "sentence-transformers torch",
        "its ONNX backend": "sentence-transformers onnx",
        "optimum": "optimum fp32",
        "fastembed": "fastembed fp32",
    },
}


def setup(row: Row) -> str:
    """Return the name of the setup without its provider."""
    return row.label.removesuffix(" on cpu")


def lines(section: Section, stage: Stage, *, largest_only: bool) -> Iterator[str]:
    """Yield the lines of a tower, one for each number of items per call, or one for the largest number."""
    sizes = sorted({row.case.items for row in section.at(stage) if setup(row) == BASELINE})
    for items in sizes[-1:] if largest_only else sizes:
        rows = {setup(row): row for row in section.at(stage) if row.case.items == items}
        int8 = rows.get("runtime int8")
        name = f"{section.title.removesuffix(f', {section.tower} tower')}, {section.tower}, {items}"
        cells = [
            name,
            form.digits(time_ms(rows[BASELINE])),
            *(cell(rows.get(label)) for label in COLUMNS[stage].values()),
        ]
        yield "| " + " | ".join([*cells, form.cosine(int8.cosine) if int8 else ""]) + " |"


def time_ms(row: Row) -> float:
    """Return the time that speedups compare: the mean end to end, the median for the graph alone."""
    return row.summary.mean_ms if row.case.stage == "end_to_end" else row.summary.p50_ms


def cell(row: Row | None) -> str:
    """Return the speed of ``row`` relative to torch eager, with its interval; nothing if it was not measured."""
    if row is None or row.speedup is None:
        return ""
    return f"{form.digits(row.speedup.times)} {form.span(row.speedup.low, row.speedup.high)}"


def table(sections: Sequence[Section], stage: Stage, *, largest_only: bool) -> str:
    """Return the table of a stage in Markdown."""
    time = "mean" if stage == "end_to_end" else "p50"
    names = ["artifact, tower, items per call", f"torch eager, {time} ms", *COLUMNS[stage], "min cosine of int8"]
    head = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join(
        [*head, *(line for section in sections for line in lines(section, stage, largest_only=largest_only))]
    )


def insert(path: Path, key: str, content: str) -> str:
    """Return the text of ``path`` with ``content`` in the place that ``key`` names."""
    begin, end = BEGIN % key, END % key
    text = path.read_text("utf-8")
    if text.count(begin) != 1 or text.count(end) != 1:
        sys.exit(f"{path.name} has no place for the measurements; put {begin} and {end} around it")
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.split(end)[1]}"


study = analyze(read_results(REPORT / RESULTS_FILE), None)
pages: dict[Path, dict[str, Stage]] = {
    ROOT / "README.md": {"end-to-end": "end_to_end"},
    ROOT / "docs/benchmarks.md": {"graph": "graph", "end-to-end": "end_to_end"},
}
code = 0
for page, tables in pages.items():
    for key, stage in tables.items():
        content = insert(page, key, table(study.sections, stage, largest_only=page.name == "README.md"))
        code |= write_or_check(page, content)
sys.exit(code)
