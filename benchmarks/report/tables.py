"""Build the tables of a tower: parity, times, steps, roofline, cost and recommended settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from benchmarks.report.analysis import TORCH_COSINE, Row, Section, Study, highest_throughput
from benchmarks.report.format import NONE, cosine, digits, listing, percent, span
from benchmarks.report.recommendations import Recommendation, recommend
from benchmarks.report.roofline import Roofline
from benchmarks.report.speedup import is_baseline
from benchmarks.report.table import Cell, Column, Table, lift, table, text_table
from benchmarks.results.schema import CaseParity


def settings_table(section: Section, study: Study) -> Table:
    """Return the recommended settings for each goal."""
    threads = study.results.machine.threads
    columns: list[Column[Recommendation]] = [
        ("goal", lambda best: best.goal),
        *lift((_SETUP, _BATCH, _P50, _P95, _RATE, _COSINE, _cost_column(study)), _row_of),
        ("options of python -m runtime embed", lambda best: Cell(text=best.command(threads), code=True)),
    ]
    note = (
        f"Vectors count as torch's if every item has a cosine of at least {TORCH_COSINE}. Throughputs are ranked by "
        "the slow end of their confidence interval."
    )
    return table("Recommended settings", columns, recommend(section), words=2, note=note)


def parity_table(rows: Sequence[Row]) -> Table:
    """Return the parity of ``rows`` with their references."""
    figures: list[Column[CaseParity]] = [
        ("min cosine", lambda parity: cosine(parity.min_cosine)),
        ("p1 cosine", lambda parity: cosine(parity.p1_cosine)),
        ("mean cosine", lambda parity: cosine(parity.mean_cosine)),
        ("max abs error", lambda parity: digits(parity.max_abs_error)),
        ("relative error", lambda parity: digits(parity.relative_error)),
        ("overlap@10", lambda parity: digits(parity.overlap_at_10)),
        ("items", lambda parity: str(parity.items)),
    ]
    stage: Column[Row] = ("stage", lambda row: "end to end" if row.case.stage == "end_to_end" else "graph only")
    parity: list[Column[Row]] = lift(figures, lambda row: row.case.parity)
    columns = [_SETUP, stage, _BATCH, _TOKENS, *parity]
    references = sorted({row.case.parity.reference for row in rows})
    own = "" if all(row.case.parity.with_torch for row in rows) else "The graph is the artifact's own, not torch. "
    note = (
        f"Compared with {listing(references)}. {own}Overlap@10: share of the ten nearest neighbours that are the "
        "same. Relative error: the largest error as a share of the largest value of the reference."
    )
    return table("Parity with the reference", columns, rows, words=2, note=note)


def worst_rows(section: Section) -> list[Row]:
    """Return the case with the smallest cosine of each setup."""
    own = ([row for row in section.rows if row.label == label] for label in section.labels)
    return [min(rows, key=lambda row: row.case.parity.min_cosine) for rows in own]


def worst_items_table(section: Section) -> Table:
    """Return the three items of each setup that are furthest from the reference."""
    rows: list[tuple[str, str, str]] = []
    for label in section.labels:
        own = (row.case.parity.worst for row in section.rows if row.label == label)
        lowest: dict[str, float] = {}
        for worst in (worst for found in own for worst in found):
            lowest[worst.item] = min(worst.cosine, lowest.get(worst.item, worst.cosine))
        rows += [(label, item, cosine(value)) for item, value in sorted(lowest.items(), key=lambda pair: pair[1])[:3]]
    return text_table("Items furthest from the reference", ("setup", "item", "cosine"), rows)


def times_tables(section: Section) -> list[Table]:
    """Return the times of each stage."""
    columns: list[Column[Row]] = [
        *(_SETUP, _BATCH, _TOKENS),
        ("p50, ms", _median),
        _P95,
        ("p99, ms", lambda row: digits(row.summary.p99_ms)),
        ("calls", lambda row: f"{row.summary.calls:,}"),
        ("mean, ms", _mean),
        ("items/s", lambda row: digits(row.summary.items_per_s)),
        _SPEEDUP,
        ("peak host memory, MiB", lambda row: digits(row.case.peak_bytes / 2**20)),
        ("cold start, s", lambda row: digits(row.case.start_s + row.case.first_s)),
    ]
    note = (
        "Brackets: bootstrap confidence intervals. A warning stands beside the time that it judges: the mean end to "
        "end, the p50 for the graph alone. Cold start: load the model, without a check of hashes, and run the "
        "first call."
    )
    return [
        table("End to end: from files or texts to vectors", columns, section.at("end_to_end"), note=note),
        table("Graph only: from arrays to vectors", columns, section.at("graph"), note=note),
    ]


def steps_table(section: Section) -> Table:
    """Return the time of each step of a call."""
    rows = [row for row in section.rows if row.case.stages]
    names = dict.fromkeys(name for row in rows for name in row.case.stages)
    columns: list[Column[Row]] = [
        *(_SETUP, _BATCH, _TOKENS),
        ("total, ms", lambda row: digits(1000 * sum(row.case.stages.values()))),
        *((f"{name}, ms", partial(_step, name)) for name in names),
    ]
    note = "Steps were timed one after another. They overlap, where possible, when many items are embedded."
    return table("Time per step of a call", columns, rows, note=note)


def roofline_table(section: Section) -> Table:
    """Return the share of the machine's peak rates that each case reaches."""
    figures: list[Column[Roofline]] = [
        ("bound by", lambda roofline: roofline.bound),
        ("operations per byte", lambda roofline: digits(roofline.intensity)),
        ("Gop/s", lambda roofline: digits(roofline.ops_per_s / 1e9)),
        ("least time, ms", lambda roofline: digits(roofline.attainable_ms)),
    ]
    bound, *others = lift(figures, _roofline)
    precision: Column[Row] = ("precision", lambda row: row.case.precision)
    share: Column[Row] = ("share of the roofline", _roofline_share)
    columns = [_SETUP, precision, bound, _BATCH, _TOKENS, *others, _P50, share]
    rows = [row for row in section.rows if _roofline(row)]
    note = (
        "Least time: all operations at the peak rate of matrix products, or all bytes at the peak rate of memory, "
        "whichever takes longer. A share above 100% means that data came from a cache. "
    )
    found = table("Share of the roofline", columns, rows, words=3, note=note)
    return replace(found, note=(found.note + _without_roofline(section)).strip())


def cost_table(section: Section, study: Study) -> Table:
    """Return the cost of a million embeddings for each setup at its best batch size."""
    hours: Column[Row] = ("hours per million", lambda row: digits(1e6 / row.summary.items_per_s / 3600))
    ends = section.at("end_to_end")
    best = [highest_throughput(row for row in ends if row.label == label) for label in section.labels]
    rows = sorted((row for row in best if row), key=lambda row: -row.summary.items_per_s)
    columns = [_SETUP, _BATCH, _RATE, hours, _cost_column(study), _COSINE]
    return table("Cost of a million embeddings", columns, rows, note=_price_note(study))


def glance_table(study: Study) -> Table:
    """Return the first recommendation for each tower."""
    columns: list[Column[Recommendation]] = [
        ("artifact", lambda best: best.section.title),
        *lift((_SETUP, _BATCH, _RATE, _SPEEDUP, _COSINE, _cost_column(study)), _row_of),
        ("lowest latency, p50 ms", _lowest_latency),
    ]
    best = [each for section in study.sections for each in recommend(section)[:1]]
    note = f"Highest throughput with a cosine of at least {TORCH_COSINE} for every item, if a setup reaches that."
    return table("At a glance", columns, best, words=2, note=note)


def _median(row: Row) -> Cell:
    figures = row.summary
    mark = "" if row.case.stage == "end_to_end" else row.warning
    return Cell(text=digits(figures.p50_ms), aside=span(figures.low_ms, figures.high_ms), mark=mark)


def _mean(row: Row) -> Cell:
    return Cell(text=digits(row.summary.mean_ms), mark=row.warning if row.case.stage == "end_to_end" else "")


def _step(name: str, row: Row) -> Cell | str:
    seconds, total = row.case.stages.get(name), sum(row.case.stages.values())
    if seconds is None:
        return NONE
    return Cell(text=digits(1000 * seconds), aside=percent(seconds / total) if total else "")


def _rate(row: Row) -> Cell:
    return Cell(text=digits(row.summary.items_per_s), mark=row.warning)


def _speedup(row: Row) -> Cell:
    if row.speedup is None:
        return Cell(text="1" if is_baseline(row.case) else NONE)
    mark = "" if row.speedup.distinguishable else "not distinguishable"
    return Cell(text=digits(row.speedup.times), aside=span(row.speedup.low, row.speedup.high), mark=mark)


def _cosine(row: Row) -> str:
    return "reference" if row.cosine is None and is_baseline(row.case) else cosine(row.cosine)


def _roofline(row: Row) -> Roofline | None:
    return row.roofline if isinstance(row.roofline, Roofline) else None


def _roofline_share(row: Row) -> Cell:
    roofline = _roofline(row)
    return Cell(text=percent(roofline.share) if roofline else NONE, mark=row.warning)


def _row_of(best: Recommendation) -> Row:
    return best.row


def _lowest_latency(best: Recommendation) -> str:
    return next((digits(each.row.summary.p50_ms) for each in recommend(best.section) if each.latency), NONE)


_SETUP: Column[Row] = ("setup", lambda row: row.label)
_BATCH: Column[Row] = ("batch size", lambda row: str(row.case.items))
_TOKENS: Column[Row] = ("tokens", lambda row: str(row.case.tokens or ""))
_P50: Column[Row] = ("p50, ms", lambda row: digits(row.summary.p50_ms))
_P95: Column[Row] = ("p95, ms", lambda row: digits(row.summary.p95_ms))
_RATE: Column[Row] = ("items/s", _rate)
_SPEEDUP: Column[Row] = ("speedup over torch eager", _speedup)
_COSINE: Column[Row] = ("min cosine", _cosine)


def _cost_column(study: Study) -> Column[Row]:
    def cost(row: Row) -> str:
        return "" if row.cost_per_million is None else digits(row.cost_per_million)

    return f"{study.currency} per million", cost


def _price_note(study: Study) -> str:
    machine = study.results.machine.name
    if study.prices is None:
        return "Without --prices, the report has hours but no costs."
    if study.per_hour is None:
        return f"The price file of {study.prices.date} has no price for {machine}; set the name with --machine."
    price = f"{digits(study.per_hour)} {study.currency} per hour"
    return f"{machine} costs {price} (price file of {study.prices.date}). Costs assume that it is always busy."


def _without_roofline(section: Section) -> str:
    labels: dict[str, list[str]] = {}
    for row in section.at("graph"):
        if isinstance(row.roofline, str):
            labels.setdefault(row.roofline, []).append(row.label)
    found = ((listing(list(dict.fromkeys(names))), reason) for reason, names in labels.items())
    return " ".join(f"No roofline for {names}: {reason}." for names, reason in found)
