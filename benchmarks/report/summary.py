"""Summarize a tower in a few sentences."""

from __future__ import annotations

from benchmarks.report.analysis import RUNTIME, TORCH_COSINE, Row, Section, Study, highest_throughput, lowest_latency
from benchmarks.report.format import cosine, count, digits, span
from benchmarks.report.speedup import is_baseline


def summarize_section(section: Section, study: Study) -> tuple[str, ...]:
    """Return sentences about parity, throughput, cost, faster setups with other vectors, latency, and timed items."""
    if not section.rows:
        return ("No case was measured.",)
    matching = [row for row in section.decisive if row.matches_torch]
    fastest = highest_throughput(matching)
    found = (
        _parity(section),
        _throughput(fastest) if fastest or section.compared_with_torch else "",
        _cost(section, study),
        _faster(highest_throughput(section.decisive), fastest),
        _latency(lowest_latency(matching)),
        _timed_items(section, study),
    )
    return tuple(filter(None, found))


def _parity(section: Section) -> str:
    lowest: dict[str, float] = {}
    for row in section.rows:
        if row.case.contender == RUNTIME and row.cosine is not None:
            lowest[row.case.variant] = min(row.cosine, lowest.get(row.case.variant, row.cosine))
    if not lowest:
        return "The vectors were not compared with torch."
    each = "; ".join(f"{variant} {cosine(value)}" for variant, value in lowest.items())
    return f"Smallest cosine similarity of any item to torch: {each}."


def _throughput(row: Row | None) -> str:
    if row is None:
        return f"No setup reaches a cosine of {TORCH_COSINE} for every item."
    return f"Fastest setup with a cosine of at least {TORCH_COSINE}: {_described(row)}{_against_torch(row)}."


def _cost(section: Section, study: Study) -> str:
    row = highest_throughput(row for row in section.at("end_to_end") if row.matches_torch)
    if row is None or row.cost_per_million is None:
        return ""
    return f"At that rate, a million embeddings cost {digits(row.cost_per_million)} {study.currency}."


def _faster(row: Row | None, matching: Row | None) -> str:
    """Name the fastest setup if its vectors are not torch's."""
    if row is None or row.matches_torch:
        return ""
    start = "Faster" if matching else "Fastest"
    parity = f"with a smallest cosine of {cosine(row.cosine)}" if row.cosine is not None else "not compared with torch"
    gain = f"{digits(row.summary.items_per_s / matching.summary.items_per_s)} times that rate, by " if matching else ""
    return f"{start}, but {parity}: {gain}{_described(row)}{_against_torch(row)}."


def _latency(row: Row | None) -> str:
    if row is None:
        return ""
    figures, cold_s = row.summary, row.case.start_s + row.case.first_s
    p95 = "" if figures.p95_ms is None else f" (p95 {digits(figures.p95_ms)} ms)"
    return (
        f"Latency of {count(row.case.items, 'item')}: {digits(figures.p50_ms)} ms{p95} with {row.label}. Its first "
        f"vector takes {digits(cold_s)} s from a cold start without a check of hashes."
    )


def _timed_items(section: Section, study: Study) -> str:
    if not section.tower or not section.at("end_to_end"):
        return ""
    items = study.results.timed_items.get(section.tower)
    if items is None:
        return "The results do not record the sizes of the items that were timed end to end."
    mean = study.results.mean_tokens.get(section.artifact.name) if items.are_texts else None
    tokens = "" if mean is None else f" Their mean length is {digits(mean)} tokens with the tokenizer of this artifact."
    return f"Times end to end are those of {items.description}.{tokens} Items of other sizes take other times."


def _described(row: Row) -> str:
    where = "end to end" if row.case.stage == "end_to_end" else "for the graph only"
    warning = f" ({row.warning})" if row.warning else ""
    return f"{row.label}, {digits(row.summary.items_per_s)} items/s {where}{warning} with batch size {row.case.items}"


def _against_torch(row: Row) -> str:
    if is_baseline(row.case):
        return ", which is the baseline itself"
    if row.speedup is None:
        return "; torch eager was not measured at the same work"
    interval = span(row.speedup.low, row.speedup.high)
    if not row.speedup.distinguishable:
        return f", not distinguishable from torch eager {interval}"
    return f", {digits(row.speedup.times)} times as fast as torch eager {interval}"
