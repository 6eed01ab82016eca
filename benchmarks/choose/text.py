"""A choice of hardware in words: what to take and why, a table of what else there is, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.choose.offers import Job
from benchmarks.choose.queueing import MOST_UTILISATION
from benchmarks.choose.selection import Choice, Demand, LeftOut, Plan, Reason, explain
from benchmarks.results.prices import Prices
from runtime.artifact.parity import near_one
from runtime.console import table

_HEADER = (
    "machine",
    "what runs",
    "batch",
    "instances",
    "utilisation",
    "p95 ms",
    "a month",
    "a million",
    "min cosine",
    "times",
)


def as_text(job: Job, choice: Choice, demand: Demand, prices: Prices) -> str:
    """Returns what was chosen for ``job``, with the reasoning."""
    parts = [f"== {job.label} (artifact {job.artifact.seal[:8]}) =="]
    parts += [_winner(choice, demand, prices), _ranking(choice, prices)] if choice.plans else [_nothing(choice, demand)]
    left_out = "\n".join(_left_out(choice, demand))
    return "\n\n".join([*parts, *([f"Left out:\n{left_out}"] if left_out else [])])


def as_record(job: Job, choice: Choice, demand: Demand) -> dict[str, Any]:
    """Returns the same for machines, for ``json.dumps``."""
    return {
        "artifact": job.artifact.name,
        "seal": job.artifact.seal,
        "tower": job.tower,
        "tokens": job.tokens,
        "plans": [_record(plan) for plan in choice.plans],
        "reasoning": asdict(explain(choice.plans[0], demand)) if choice.plans else None,
        "left_out": [_name(each) | {"reason": each.reason, "figure": each.figure} for each in choice.left_out],
        "outdone": choice.outdone,
    }


def _record(plan: Plan) -> dict[str, Any]:
    figures = ("instances", "utilisation", "p50_ms", "p95_ms", "per_month", "per_million")
    return {
        "machine": plan.candidate.machine,
        "label": plan.candidate.label,
        "batch": plan.candidate.batch,
        **{name: getattr(plan, name) for name in figures},
        "min_cosine": plan.candidate.min_cosine,
        "stable": plan.candidate.stable,
    }


def _name(left_out: LeftOut) -> dict[str, Any]:
    candidate = left_out.candidate
    return {"machine": candidate.machine, "label": candidate.label, "batch": candidate.batch}


def _winner(choice: Choice, demand: Demand, prices: Prices) -> str:
    plan = choice.plans[0]
    candidate = plan.candidate
    money = f"{prices.currency} {plan.per_month:,.2f} a month, {prices.currency} {plan.per_million:.4g} a million items"
    lines = [
        f"Take {plan.instances} x {candidate.machine} with {candidate.label}, {_batches(candidate.batch)}: {money}.",
        _arrivals(demand),
        *_reasoning(plan, demand),
        *_runner_up(choice),
    ]
    return "\n".join(lines)


def _batches(batch: int) -> str:
    return "one item at a time" if batch == 1 else f"batches of up to {batch}"


def _arrivals(demand: Demand) -> str:
    mean = f"{demand.per_day:,.0f} items a day are {demand.mean_per_s:,.1f} a second in the mean"
    if demand.peak == 1:
        return f"{mean}; --peak 1 says that the day has no busier hours."
    return f"{mean}, and {demand.peak_per_s:,.1f} at a peak of {demand.peak:g} times that, which instances are for."


def _reasoning(plan: Plan, demand: Demand) -> Iterator[str]:
    reasoning, service = explain(plan, demand), plan.service
    work = "An item" if service.largest == 1 else f"A batch of {service.largest}"
    yield (
        f"{work} takes {1000 * service.mean_s:.3g} ms in the mean, so an instance does at most "
        f"{service.capacity:,.1f} items a second."
    )
    answers = f"95 of 100 are answered within {plan.p95_ms:.3g} ms, half within {plan.p50_ms:.3g} ms"
    many = f"{plan.instances} instances are" if plan.instances > 1 else "One instance is"
    load = f"{many} at {plan.utilisation:.0%} of that; {answers}."
    averages = reasoning.by_averages
    if averages == plan.instances:
        yield f"{load} Dividing averages gives the same number here."
    elif reasoning.averages_p95_ms is None:
        yield f"Dividing averages gives {averages}, whose queue would grow without end. {load}"
    else:
        yield (
            f"Dividing averages gives {averages}: items would wait for others, and 95 of 100 be answered within some "
            f"{reasoning.averages_p95_ms:.3g} ms. {load}"
        )
    if reasoning.bound == "one":
        yield "What binds is that there is no less than one instance."
    elif reasoning.bound == "capacity":
        yield (
            f"What binds is capacity: one instance fewer would be past {MOST_UTILISATION:.0%} of it, nearer to a queue "
            "without end than measured times can tell."
        )
    else:
        yield (
            f"What binds is the bound of {demand.max_p95_ms:g} ms: with one instance fewer it would be "
            f"{reasoning.fewer_p95_ms:.3g} ms."
        )


def _runner_up(choice: Choice) -> Iterator[str]:
    best = choice.plans[0]
    others = [plan for plan in choice.plans if plan.candidate.machine != best.candidate.machine]
    if others:
        second = others[0]
        yield (
            f"The cheapest other machine is {second.candidate.machine}, {second.instances} of it with "
            f"{second.candidate.label}: {second.per_month / best.per_month - 1:+.0%}."
        )


def _ranking(choice: Choice, prices: Prices) -> str:
    rows = [_row(plan) for plan in choice.plans]
    notes = [f"Prices are in {prices.currency}, of {prices.date}; utilisation and p95 are those at the peak."]
    if choice.outdone:
        notes.append(f"{choice.outdone} other batch sizes of these need as many instances or more, and are not shown.")
    if any(not plan.candidate.stable for plan in choice.plans):
        notes.append("unstable: the times are less certain than was aimed at; measure again on a quieter machine.")
    return "\n".join([table(_HEADER, rows), *notes])


def _row(plan: Plan) -> Sequence[object]:
    candidate = plan.candidate
    return (
        candidate.machine,
        candidate.label,
        candidate.batch,
        plan.instances,
        f"{plan.utilisation:.0%}",
        f"{plan.p95_ms:.3g}",
        f"{plan.per_month:,.2f}",
        f"{plan.per_million:.4g}",
        near_one(candidate.min_cosine or 0.0),
        "stable" if candidate.stable else "unstable",
    )


def _nothing(choice: Choice, demand: Demand) -> str:
    ways_out = {
        "p95": f"raise --max-p95-ms (now {demand.max_p95_ms:g}), or measure a faster machine or variant",
        "parity": f"lower --min-cosine (now {demand.min_cosine:g}), or measure a variant that is closer to torch",
        "no parity": "measure again where torch is installed, so that vectors are held against it",
        "no price": "add the machine to the price file",
    }
    reasons = {each.reason for each in choice.left_out}
    return (
        "Nothing keeps the bounds. The way out: "
        + "; or ".join(way for reason, way in ways_out.items() if reason in reasons)
        + "."
    )


def _left_out(choice: Choice, demand: Demand) -> Iterator[str]:
    by_reason: dict[Reason, list[LeftOut]] = {}
    for each in choice.left_out:
        by_reason.setdefault(each.reason, []).append(each)
    for reason, group in by_reason.items():
        yield f"- {len(group)} {'settings' if len(group) > 1 else 'setting'}: {_why(reason, group, demand)}"


def _why(reason: Reason, group: Sequence[LeftOut], demand: Demand) -> str:
    if reason == "no price":
        machines = sorted({each.candidate.machine for each in group})
        names = "; ".join(f'[machines."{name}"]' for name in machines)
        return f"the machine has no price; add {names} to the price file, or name it by --machine when measuring"
    if reason == "no parity":
        return f"nothing says how close the vectors are to torch, such as those of {_who(group[0])}"
    if reason == "parity":
        nearest = max(group, key=lambda each: each.figure or 0.0)
        return (
            f"farther from torch than a cosine of {demand.min_cosine:g}; the nearest is {_who(nearest)}, "
            f"{near_one(nearest.figure or 0.0)}"
        )
    nearest = min(group, key=lambda each: each.figure or 0.0)
    return (
        f"no number of instances answers 95 of 100 within {demand.max_p95_ms:g} ms; the nearest is {_who(nearest)}, "
        f"where an item that never waits takes {nearest.figure:.3g} ms"
    )


def _who(left_out: LeftOut) -> str:
    candidate = left_out.candidate
    return f"{candidate.label}, {_batches(candidate.batch)} ({candidate.machine})"
