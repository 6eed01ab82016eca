"""Reasons to distrust the figures of a load test, or the servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.report.caveats import busy
from benchmarks.report.format import NONE, cosine, count, digits, listing, percent
from benchmarks.results.schema import MAX_STEAL
from benchmarks.results.statistics import ENOUGH_FOR_P99
from benchmarks.serve.analysis import ENOUGH_TO_JUDGE, SUCCESS, Curve, Level, ServeStudy
from benchmarks.serve.schema import Load

MAX_GENERATOR_CPU = 0.7  # share of one core above which the generator itself may be the bottleneck
MAX_LATE = 0.1  # lateness of the generator as a share of the median latency above which it distorts the latency
MAX_DIFFERENCE = 1e-5  # between two vectors of the same item, from float arithmetic in another order
MIN_ANSWERS = 10  # of a closed loop; with fewer, the throughput depends on when the measurement began and ended


def warnings(study: ServeStudy) -> tuple[str, ...]:
    """Return reasons to distrust the figures or the servers, the most serious first."""
    found = (
        *(_incomplete(study), _wrong(study), _failing(study), _differing(study), _other_vectors(study)),
        *(_unchecked(study), _few_answers(study), _undecided(study), _too_few(study), _busy_generator(study)),
        *(_late(study), busy(study.results.machine), _steal_time(study)),
    )
    return tuple(filter(None, found))


def faults(study: ServeStudy) -> tuple[str, ...]:
    """Return what is wrong with the vectors of the servers."""
    return tuple(filter(None, (_wrong(study), _other_vectors(study))))


def largest_difference(loads: Sequence[Load]) -> float | None:
    """Return the largest difference to the vector of an item alone; ``None`` if none was compared."""
    return max((load.max_difference for load in loads if load.max_difference is not None), default=None)


def smallest_cosine(loads: Sequence[Load]) -> float | None:
    """Return the smallest cosine similarity to the reference; ``None`` if none was compared."""
    return min((load.min_cosine for load in loads if load.min_cosine is not None), default=None)


def scientific(value: float | None) -> str:
    """Return a small number with one digit after the point."""
    return NONE if value is None else f"{value:.1e}" if value else "0"


def _incomplete(study: ServeStudy) -> str:
    return "" if study.results.complete else "The run stopped before everything was measured."


def _wrong(study: ServeStudy) -> str:
    names = _names(load for load in study.results.loads if any(key.startswith("wrong") for key in load.failures))
    return f"Answers without the right vectors: {names}." if names else ""


def _failing(study: ServeStudy) -> str:
    """Name the closed loops with failures. In an open loop, these tell which rates are too high."""
    found = [(curve, level) for curve in study.curves for level in curve.closed if level.success_share < SUCCESS]
    return f"Requests without vectors: {listing([_failed_share(*each) for each in found])}." if found else ""


def _failed_share(curve: Curve, level: Level) -> str:
    clients = count(level.load.clients or 0, "client")
    return f"{percent(1 - level.success_share)} of {curve.server} ({curve.workload}, {clients})"


def _differing(study: ServeStudy) -> str:
    loads = [load for load in study.results.loads if (load.max_difference or 0.0) > MAX_DIFFERENCE]
    if not loads:
        return ""
    return (
        f"Vectors depend on the load: those of {_names(loads)} differ by up to "
        f"{scientific(largest_difference(loads))} from those of the same items alone."
    )


def _other_vectors(study: ServeStudy) -> str:
    results = study.results
    loads = [load for load in results.loads if load.min_cosine is not None and load.min_cosine < results.min_cosine]
    if not loads:
        return ""
    return (
        f"Other vectors than those of {study.results.reference}: {_names(loads)}, with cosines down to "
        f"{cosine(smallest_cosine(loads))} and a limit of {results.min_cosine:g}. Use a lower --min-cosine for an int8 "
        "server."
    )


def _unchecked(study: ServeStudy) -> str:
    answers = sum(len(load.latency_s) for load in study.results.loads)
    checked = sum(load.checked for load in study.results.loads)
    return f"{percent(1 - checked / answers)} of the answers were not checked." if checked < answers else ""


def _few_answers(study: ServeStudy) -> str:
    loads = [load for load in study.results.loads if load.clients is not None and load.completed < MIN_ANSWERS]
    if not loads:
        return ""
    return (
        f"Fewer than {MIN_ANSWERS} answers in {count(len(loads), 'closed loop')}, of {_names(loads)}: their throughput "
        "is too inexact. Raise --seconds."
    )


def _undecided(study: ServeStudy) -> str:
    names = dict.fromkeys(curve.server for curve in study.curves if curve.too_few)
    if not names:
        return ""
    return (
        f"At some rates, too few requests show whether {', '.join(names)} sustained them: that can take "
        f"{ENOUGH_TO_JUDGE} in a round. Raise --seconds."
    )


def _too_few(study: ServeStudy) -> str:
    bound = study.results.max_p99_ms
    names = dict.fromkeys(
        curve.server
        for curve in study.curves
        if bound is not None and curve.is_unknown(bound)
        if any(level.sustained and level.p99_ms is None for level in curve.open)
    )
    if not names:
        return ""
    return (
        f"Too few requests to compare the p99 of {', '.join(names)} with its bound: a p99 needs {ENOUGH_FOR_P99} "
        "successes at one rate. Raise --seconds."
    )


def _busy_generator(study: ServeStudy) -> str:
    highest = max((load.generator_cpu for load in study.results.loads), default=0.0)
    if highest <= MAX_GENERATOR_CPU:
        return ""
    return (
        f"The load generator used up to {percent(highest)} of a core and may be the bottleneck. Use --encoding base64, "
        "or more machines."
    )


def _late(study: ServeStudy) -> str:
    late = [load for level in study.levels for load in level.loads if load.late_s > MAX_LATE * _median_s(level)]
    if not late:
        return ""
    return (
        f"The load generator sent requests late in {count(len(late), 'load')}, by up to "
        f"{digits(1000 * max(load.late_s for load in late))} ms (p99). These latencies contain that time."
    )


def _median_s(level: Level) -> float:
    return (level.percentile_ms(50) or 0.0) / 1000


def _steal_time(study: ServeStudy) -> str:
    loads = [load for load in study.results.loads if load.stolen > MAX_STEAL]
    if not loads:
        return ""
    return (
        f"The host took CPU time from this virtual machine: more than {percent(MAX_STEAL)} in {len(loads)} of "
        f"{count(len(study.results.loads), 'load')}, up to {percent(max(load.stolen for load in loads))}."
    )


def _names(loads: Any) -> str:
    return ", ".join(dict.fromkeys(load.server for load in loads))
