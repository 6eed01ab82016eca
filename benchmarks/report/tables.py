"""The tables of a tower: parity, times, stages, roofline, cost, and the settings to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.report.analysis import FAITHFUL, Row, Section, Study, best
from benchmarks.report.format import NONE, cosine, digits, listing, mebibytes, percent, span
from benchmarks.report.recommendations import Choice, choices
from benchmarks.report.roofline import Roofline
from benchmarks.report.speedup import is_baseline
from benchmarks.report.table import Cell, Table, table
from benchmarks.results.schema import Case, CaseParity, Stage

STAGES: dict[Stage, str] = {"end_to_end": "End to end", "graph": "The graph alone"}
_WHAT = {"end_to_end": "files or texts in, vectors out", "graph": "arrays in, vectors out"}


def settings_table(section: Section, study: Study) -> Table:
    """Returns what to take for which goal."""
    header = (
        *("goal", "take", "items a call", "p50, ms", "p95, ms", "items/s", "min cosine", _cost_name(study)),
        "of the runtime's command line",
    )
    rows = [_setting(choice, study) for choice in choices(section)]
    note = f"Vectors count as those of torch from a cosine of {FAITHFUL} for every item."
    return table("Settings to take", header, rows, words=2, note=note)


def parity_table(rows: Sequence[Row]) -> Table:
    """Returns how the vectors of ``rows`` compare to those of torch."""
    header = (
        *("setting", "stage", "items a call", "tokens", "min cosine", "p1 cosine", "mean cosine", "max abs error"),
        *("relative error", "overlap@10", "items"),
    )
    measured = [(row.case, row.case.parity) for row in rows if row.case.parity is not None]
    references = listing(sorted({parity.reference for _, parity in measured}))
    return table(
        "Vectors against those of torch",
        header,
        [_parity(case, parity) for case, parity in measured],
        words=2,
        note=f"Held against {references}. Overlap@10: share of the ten nearest neighbours that are the same. "
        "Relative error: the largest one, as a share of the reference's largest value."
        if measured
        else "",
    )


def lowest(section: Section) -> list[Row]:
    """Returns, of each way to embed, the case with the smallest cosine."""
    rows = [row for row in section.rows if row.case.parity is not None]
    own = [[row for row in rows if row.label == label] for label in section.labels]
    return [min(group, key=lambda row: row.cosine or 0.0) for group in own if group]


def worst_table(section: Section) -> Table:
    """Returns the items that are furthest from their references, for each way to embed."""
    rows: list[tuple[str, str, str]] = []
    for label in section.labels:
        parities = [row.case.parity for row in section.rows if row.label == label and row.case.parity]
        lowest: dict[str, float] = {}
        for worst in (worst for parity in parities for worst in parity.worst):
            lowest[worst.item] = min(worst.cosine, lowest.get(worst.item, worst.cosine))
        rows += [(label, item, cosine(value)) for item, value in sorted(lowest.items(), key=lambda pair: pair[1])[:3]]
    return table("Worst items", ("setting", "item", "cosine"), rows, words=2)


def times_table(section: Section, stage: Stage) -> Table:
    """Returns the times of a stage."""
    header = (
        *("setting", "items a call", "tokens", "p50, ms", "p95, ms", "p99, ms", "calls", "mean, ms", "items/s"),
        *("times as fast as torch eager", "peak memory, MiB", "cold start, s"),
    )
    rows = [_times(row) for row in section.at(stage)]
    note = "In brackets, intervals by bootstrap. Cold start: loading the model, and its first call."
    return table(f"{STAGES[stage]}: {_WHAT[stage]}", header, rows, note=note)


def stages_table(section: Section) -> Table:
    """Returns what the steps of a call take, one after another."""
    rows = [row for row in section.rows if row.case.stages]
    names = tuple(dict.fromkeys(name for row in rows for name in row.case.stages))
    return table(
        "Steps of a call",
        ("setting", "items a call", "tokens", "all, ms", *(f"{name}, ms" for name in names)),
        [_stages(row, names) for row in rows],
        note="Taken one after another; in a run over many items they overlap where they can.",
    )


def roofline_table(section: Section) -> Table:
    """Returns how much of what the machine can do is made use of."""
    header = (
        *("setting", "precision", "bound by", "items a call", "tokens", "operations a byte", "Gop/s", "least time, ms"),
        *("p50, ms", "share of the roofline"),
    )
    rows = [_roofline(row, row.roofline) for row in section.rows if isinstance(row.roofline, Roofline)]
    note = (
        "Least time: the longer one of its operations at the rate of the best product of matrices, and its bytes at "
        "that of memory. More than 100 %: what is read lay in a cache. "
    )
    found = table("Share of the roofline", header, rows, words=3, note=note)
    return replace(found, note=found.note + _missing_roofline(section))


def cost_table(section: Section, study: Study) -> Table:
    """Returns what a million embeddings take, of each way to embed at its best batch size."""
    ends = section.at("end_to_end")
    rows = [best(row for row in ends if row.label == label) for label in section.labels]
    cheapest = sorted((row for row in rows if row), key=lambda row: -row.summary.items_per_s)
    header = ("setting", "items a call", "items/s", "hours a million", _cost_name(study), "min cosine")
    return table("A million embeddings", header, [_cost(row) for row in cheapest], note=_price_note(study))


def glance_table(study: Study) -> Table:
    """Returns one line for each tower: what to take, and what that gives."""
    header = (
        *("artifact", "take", "items a call", "items/s", "times as fast as torch eager", "min cosine"),
        *(_cost_name(study), "one item, p50 ms"),
    )
    rows = [_glance(section, choice) for section in study.sections for choice in choices(section)[:1]]
    note = f"The most items a second with a cosine of at least {FAITHFUL} for every item, where there is such a way."
    return table("At a glance", header, rows, words=2, note=note)


def _glance(section: Section, choice: Choice) -> tuple[Cell | str, ...]:
    row, single = choice.row, next((c.row for c in choices(section) if c.single), None)
    return (
        *(section.title, row.label, str(row.case.items), _rate(row), _ratio(row), _cosine(row), _money(row)),
        digits(single.summary.p50_ms) if single else NONE,
    )


def _setting(choice: Choice, study: Study) -> tuple[Cell | str, ...]:
    row = choice.row
    figures = row.summary
    command = choice.command(study.results.machine.threads)
    return (
        *(choice.goal, row.label, str(row.case.items), digits(figures.p50_ms), digits(figures.p95_ms), _rate(row)),
        *(_cosine(row), _money(row), Cell(text=command, code=True)),
    )


def _parity(case: Case, parity: CaseParity) -> tuple[Cell | str, ...]:
    cosines = (cosine(value) for value in (parity.min_cosine, parity.p1_cosine, parity.mean_cosine))
    errors = (digits(value) for value in (parity.max_abs_error, parity.relative_error, parity.overlap_at_10))
    return (*_piece(case, STAGES[case.stage].lower()), *cosines, *errors, str(parity.items))


def _times(row: Row) -> tuple[Cell | str, ...]:
    figures, case = row.summary, row.case
    middle = Cell(text=digits(figures.p50_ms), aside=span(figures.low_ms, figures.high_ms), mark=row.doubt)
    return (
        *(*_piece(case), middle, digits(figures.p95_ms), digits(figures.p99_ms), f"{figures.calls:,}"),
        *(digits(figures.mean_ms), digits(figures.items_per_s), _ratio(row), mebibytes(case.peak_bytes)),
        digits(case.start_s + case.first_s),
    )


def _stages(row: Row, names: Sequence[str]) -> tuple[Cell | str, ...]:
    total = sum(row.case.stages.values())
    shares = [(1000 * row.case.stages[name], name) if name in row.case.stages else None for name in names]
    cells = [
        Cell(text=digits(s[0]), aside=percent(s[0] / 1000 / total) if total else "") if s else NONE for s in shares
    ]
    return (*_piece(row.case), digits(1000 * total), *cells)


def _roofline(row: Row, roofline: Roofline) -> tuple[Cell | str, ...]:
    figures = (roofline.intensity, roofline.ops_per_s / 1e9, roofline.attainable_ms, row.summary.p50_ms)
    share = Cell(text=percent(roofline.share), mark=row.doubt)
    return (*_piece(row.case, row.case.precision, roofline.bound), *map(digits, figures), share)


def _cost(row: Row) -> tuple[Cell | str, ...]:
    hours = digits(1e6 / row.summary.items_per_s / 3600)
    return (row.label, str(row.case.items), _rate(row), hours, _money(row), _cosine(row))


def _piece(case: Case, *words: str) -> tuple[Cell | str, ...]:
    """Returns what begins a row: setting, ``words``, items, and tokens where they are fixed."""
    return (case.label, *words, str(case.items), str(case.tokens or ""))


def _rate(row: Row) -> Cell:
    return Cell(text=digits(row.summary.items_per_s), mark=row.doubt)


def _ratio(row: Row) -> Cell:
    if row.ratio is None:
        return Cell(text="1" if is_baseline(row.case) else NONE)
    mark = "" if row.ratio.distinguishable else "not distinguishable"
    return Cell(text=digits(row.ratio.times), aside=span(row.ratio.low, row.ratio.high), mark=mark)


def _cosine(row: Row) -> str:
    return "reference" if row.cosine is None and is_baseline(row.case) else cosine(row.cosine)


def _money(row: Row) -> str:
    return "" if row.cost_per_million is None else digits(row.cost_per_million)


def _cost_name(study: Study) -> str:
    return f"a million, {study.currency}"


def _price_note(study: Study) -> str:
    machine = study.results.machine.name
    if study.prices is None:
        return "Without --prices, only the hours of this machine are known."
    if study.per_hour is None:
        return f"The prices of {study.prices.date} have none of {machine}; name the machine as they do, by --machine."
    price = f"{digits(study.per_hour)} {study.currency} an hour"
    return f"{machine} costs {price}, by prices of {study.prices.date}; it is taken to be busy all the time."


def _missing_roofline(section: Section) -> str:
    reasons = [(row.label, row.roofline) for row in section.at("graph") if isinstance(row.roofline, str)]
    by_reason = {
        reason: listing(list(dict.fromkeys(label for label, r in reasons if r == reason))) for _, reason in reasons
    }
    return " ".join(f"Not of {labels}: {reason}." for reason, labels in by_reason.items())
