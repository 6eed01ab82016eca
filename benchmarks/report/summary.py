"""What the figures say, in a few sentences for each tower."""

from __future__ import annotations

from benchmarks.report.analysis import FAITHFUL, Row, Section, Study, best, quickest
from benchmarks.report.format import cosine, count, digits, span
from benchmarks.report.recommendations import OURS
from benchmarks.report.speedup import is_baseline


def summary(section: Section, study: Study) -> tuple[str, ...]:
    """Returns what someone who buys machines wants to know first: right, fast, at what cost, at what loss."""
    if not section.rows:
        return ("Nothing of it was measured.",)
    found = (_right(section), _fast(section), _cost(section, study), _faster(section), _soon(section))
    return tuple(sentence for sentence in found if sentence)


def _right(section: Section) -> str:
    ours = [row for row in section.rows if row.case.contender == OURS and row.cosine is not None]
    if not ours:
        return "Its vectors were not held against those of torch."
    variants = dict.fromkeys(row.case.variant for row in ours)
    lowest = {v: min(r.cosine for r in ours if r.case.variant == v and r.cosine is not None) for v in variants}
    each = "; ".join(f"{variant} {cosine(value)}" for variant, value in lowest.items())
    return f"Smallest cosine of any item to torch's vector: {each}."


def _fast(section: Section) -> str:
    row = best(row for row in section.decisive if row.faithful)
    if row is None:
        return f"Nothing that was measured keeps a cosine of {FAITHFUL} for every item."
    return f"Fastest of those that keep {FAITHFUL}: {_described(row)}{_against(row)}."


def _cost(section: Section, study: Study) -> str:
    row = best(row for row in section.at("end_to_end") if row.faithful)
    if row is None or row.cost_per_million is None:
        return ""
    return f"A million embeddings then cost {digits(row.cost_per_million)} {study.currency}."


def _faster(section: Section) -> str:
    """Names what gives up some of the cosine for speed."""
    row, kept = best(section.decisive), best(row for row in section.decisive if row.faithful)
    if row is None or row.faithful:
        return ""
    gain = f"{digits(row.summary.items_per_s / kept.summary.items_per_s)} times that, by " if kept else ""
    price = f"at a smallest cosine of {cosine(row.cosine)}" if row.cosine is not None else "at a cosine nobody checked"
    return f"{'Faster' if kept else 'Fastest'}, {price}: {gain}{_described(row)}{_against(row)}."


def _soon(section: Section) -> str:
    row = quickest(row for row in section.decisive if row.faithful)
    if row is None:
        return ""
    figures, cold = row.summary, row.case.start_s + row.case.first_s
    return (
        f"{count(row.case.items, 'item').capitalize()} at a time: {digits(figures.p50_ms)} ms (p95 "
        f"{digits(figures.p95_ms)}) by {row.label}, which needs {digits(cold)} s from a cold start to its first vector."
    )


def _described(row: Row) -> str:
    where = "end to end" if row.case.stage == "end_to_end" else "in the graph alone"
    doubt = f" ({row.doubt})" if row.doubt else ""
    rate = f"{digits(row.summary.items_per_s)} items/s {where}{doubt}"
    return f"{row.label}, {rate} at {count(row.case.items, 'item')} a call"


def _against(row: Row) -> str:
    if is_baseline(row.case):
        return ", which is torch eager itself"
    if row.ratio is None:
        return "; torch eager was not measured at it"
    if not row.ratio.distinguishable:
        return f", not distinguishable from torch eager {span(row.ratio.low, row.ratio.high)}"
    return f", {digits(row.ratio.times)} times as fast as torch eager {span(row.ratio.low, row.ratio.high)}"
