"""Print a choice of hardware: the recommendation and its reasons, a table of alternatives, and the rejections."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.choose.offers import Deployment, EmbeddingTask
from benchmarks.choose.queueing import MAX_UTILIZATION
from benchmarks.choose.selection import HardwareChoice, HardwarePlan, Reason, Rejection, Requirements, explain_sizing
from benchmarks.results.prices import Prices
from benchmarks.results.statistics import FEW_ROUNDS, TimesWarning
from runtime.artifact.manifest import TowerName
from runtime.artifact.parity import format_cosine
from runtime.console import table

_HEADER = (
    *("machine", "setup", "max batch", "instances", "utilization", "p95 ms", "per month", "per million, idle included"),
    *("min cosine", "times"),
)

_DOUBTS: dict[TimesWarning, str] = {
    "few rounds": f"few rounds: fewer than {FEW_ROUNDS}; measure again with more --rounds.",
    "unstable": "unstable: the times are less precise than requested; measure again on a quieter machine.",
    "disturbed": "disturbed: the host took CPU time; measure again with --resume --redo-disturbed.",
}

_SERVE_ITEMS: dict[TowerName, str] = {"text": "--items FILE", "image": "--workloads images"}  # it sends no meshes


def as_text(task: EmbeddingTask, choice: HardwareChoice, requirements: Requirements, prices: Prices) -> str:
    """Return the choice for ``task`` with the reasons for it."""
    parts = [f"== {task.label} (artifact {task.artifact.seal[:8]}) =="]
    if choice.plans:
        parts += [_recommendation(choice, requirements, prices), _ranking(choice, prices)]
    else:
        parts.append(_no_plan(choice, requirements))
    rejected = "\n".join(_rejected(choice, requirements))
    return "\n\n".join([*parts, *([f"Rejected:\n{rejected}"] if rejected else [])])


def as_record(task: EmbeddingTask, choice: HardwareChoice, requirements: Requirements) -> dict[str, Any]:
    """Return the choice for ``task`` as a document for ``json.dumps``."""
    return {
        "artifact": task.artifact.name,
        "seal": task.artifact.seal,
        "tower": task.tower,
        "tokens": task.tokens,
        "plans": [_plan_record(plan) for plan in choice.plans],
        "reasoning": asdict(explain_sizing(choice.plans[0], requirements)) if choice.plans else None,
        "left_out": [_names(r.deployment) | {"reason": r.reason, "figure": r.figure} for r in choice.rejections],
        "outdone": choice.outdone,
    }


def _plan_record(plan: HardwarePlan) -> dict[str, Any]:
    return _names(plan.deployment) | {
        "options": plan.deployment.cases[-1].runtime_options,
        "instances": plan.instances,
        "utilisation": plan.utilization,
        "p50_ms": plan.p50_ms,
        "p95_ms": plan.p95_ms,
        "per_month": plan.per_month,
        "per_million": plan.per_million,
        "min_cosine": plan.deployment.min_cosine,
        "stable": not plan.deployment.warning,
        "warning": plan.deployment.warning,
    }


def _names(deployment: Deployment) -> dict[str, Any]:
    return {"machine": deployment.machine, "label": deployment.label, "batch": deployment.max_batch}


def _recommendation(choice: HardwareChoice, requirements: Requirements, prices: Prices) -> str:
    plan = choice.plans[0]
    deployment, currency = plan.deployment, prices.currency
    setup = f"{plan.instances} x {deployment.machine} with {deployment.label}, {_batches(deployment.max_batch)}"
    cost = f"{currency} {plan.per_month:,.2f} per month, {currency} {plan.per_million:.4g} per million items"
    lines = [f"Use {setup}: {cost}, idle time included.", *_start(plan, requirements)]
    return "\n".join([*lines, _load(requirements), *_sizing(plan, requirements), *_runner_up(choice)])


def _start(plan: HardwarePlan, requirements: Requirements) -> Iterator[str]:
    case = plan.deployment.cases[-1]
    options, items = case.runtime_options, _SERVE_ITEMS.get(case.tower)
    if options:
        yield f"Start each instance with: python -m runtime serve ARTIFACT {options}"
    if options and items:
        rate = requirements.peak_per_s / plan.instances
        # The default of three rounds of 5 s would not see the 100 requests that a p99 needs.
        longer = f" --seconds {math.ceil(100 / (3 * rate))}" if 3 * 5 * rate < 100 else ""
        yield (
            "The simulation leaves out HTTP and the server's own batching. Confirm it with: python -m benchmarks serve "
            f'ARTIFACT -o REPORT {items} --rate {rate:.4g}{longer} --server-options "{options}"'
        )


def _batches(max_batch: int) -> str:
    return "one item at a time" if max_batch == 1 else f"batches of up to {max_batch}"


def _load(requirements: Requirements) -> str:
    mean = f"Load: {requirements.per_day:,.0f} items per day are {requirements.mean_per_s:,.1f} per second on average"
    if requirements.peak == 1:
        return f"{mean}, without a busier time (--peak 1)."
    return (
        f"{mean}, and {requirements.peak_per_s:,.1f} at the peak (--peak {requirements.peak:g}). "
        "The number of instances is for the peak."
    )


def _sizing(plan: HardwarePlan, requirements: Requirements) -> Iterator[str]:
    rationale, service = explain_sizing(plan, requirements), plan.service
    work = "an item" if service.largest == 1 else f"a batch of {service.largest}"
    yield (
        f"Capacity: {work} takes {1000 * service.mean_s:.3g} ms on average, so an instance embeds at most "
        f"{service.capacity:,.1f} items per second."
    )
    instances = "1 instance has" if plan.instances == 1 else f"{plan.instances} instances have"
    yield (
        f"Result: {instances} a utilization of {plan.utilization:.0%} at the peak. Response times: "
        f"p95 {plan.p95_ms:.3g} ms, median {plan.p50_ms:.3g} ms."
    )
    averages = f"Without queueing, averages suggest {rationale.by_averages}"
    if rationale.by_averages == plan.instances:
        yield f"{averages}, the same number."
    elif rationale.averages_p95_ms is None:
        yield f"{averages}, but their queue would grow without limit."
    else:
        yield f"{averages}, but items would wait: p95 would be {rationale.averages_p95_ms:.3g} ms."
    if rationale.bound == "one":
        yield "Why not fewer: one instance is the minimum."
    elif rationale.bound == "capacity":
        yield (
            f"Why not fewer: one instance fewer raises the utilization above {MAX_UTILIZATION:.0%}, where the measured "
            "times cannot show that the queue is stable."
        )
    else:
        yield f"Why not fewer: with one instance fewer, p95 would be {rationale.fewer_p95_ms:.3g} ms."


def _runner_up(choice: HardwareChoice) -> Iterator[str]:
    best = choice.plans[0]
    for plan in choice.plans:
        if plan.deployment.machine != best.deployment.machine:
            setup = f"{plan.instances} x {plan.deployment.machine} with {plan.deployment.label}"
            yield f"Next best machine: {setup}, {plan.per_month / best.per_month - 1:+.0%} cost."
            return


def _ranking(choice: HardwareChoice, prices: Prices) -> str:
    rows = [_row(plan) for plan in choice.plans]
    notes = [f"Prices are in {prices.currency}, as of {prices.date}. Utilization and p95 are at the peak."]
    if choice.outdone:
        notes.append(f"Not shown: {choice.outdone} other batch sizes, which are no better.")
    found = {plan.deployment.warning for plan in choice.plans}
    return "\n".join([table(_HEADER, rows), *notes, *(note for warning, note in _DOUBTS.items() if warning in found)])


def _row(plan: HardwarePlan) -> Sequence[object]:
    deployment = plan.deployment
    return (
        *(deployment.machine, deployment.label, deployment.max_batch, plan.instances, f"{plan.utilization:.0%}"),
        *(f"{plan.p95_ms:.3g}", f"{plan.per_month:,.2f}", f"{plan.per_million:.4g}"),
        format_cosine(deployment.min_cosine or 0.0),
        deployment.warning or "stable",
    )


def _no_plan(choice: HardwareChoice, requirements: Requirements) -> str:
    built_in = any(each.reason == "p95" and each.deployment.built_in for each in choice.rejections)
    own = ", or your own items with --items if they are smaller than the built-in ones" if built_in else ""
    advice = {
        "p95": f"raise --max-p95-ms (now {requirements.max_p95_ms:g}), or measure a faster machine or variant" + own,
        "parity": f"lower --min-cosine (now {requirements.min_cosine:g}), or measure a variant closer to torch",
        "no parity": "measure again where torch is installed, and name the weights of the export with --weights",
        "no price": "add the machine to the price file",
    }
    reasons = {each.reason for each in choice.rejections}
    found = "; or ".join(text for reason, text in advice.items() if reason in reasons)
    return f"No deployment meets the requirements. To get one: {found}."


def _rejected(choice: HardwareChoice, requirements: Requirements) -> Iterator[str]:
    by_reason: dict[Reason, list[Rejection]] = {}
    for each in choice.rejections:
        by_reason.setdefault(each.reason, []).append(each)
    for reason, group in by_reason.items():
        number = "1 deployment" if len(group) == 1 else f"{len(group)} deployments"
        yield f"- {number}: {_why(reason, group, requirements)}"


def _why(reason: Reason, group: Sequence[Rejection], requirements: Requirements) -> str:
    if reason == "no price":
        machines = sorted({each.deployment.machine for each in group})
        names = "; ".join(f'[machines."{name}"]' for name in machines)
        return f"no price for the machine; add {names} to the price file, or measure with the --machine name it has"
    if reason == "no parity":
        setups = sorted({f"{each.deployment.label} ({each.deployment.machine})" for each in group})
        return f"vectors were not compared with torch: {', '.join(setups)}"
    if reason == "parity":
        nearest = max(group, key=lambda each: each.figure or 0.0)
        return (
            f"cosine similarity to torch below {requirements.min_cosine:g}; the closest is {_describe(nearest)}, "
            f"with {format_cosine(nearest.figure or 0.0)}"
        )
    nearest = min(group, key=lambda each: each.figure or 0.0)
    return (
        f"p95 above {requirements.max_p95_ms:g} ms with any number of instances; the closest is {_describe(nearest)}, "
        f"where p95 is {nearest.figure:.3g} ms without any waiting"
    )


def _describe(rejection: Rejection) -> str:
    deployment = rejection.deployment
    return f"{deployment.label}, {_batches(deployment.max_batch)} ({deployment.machine})"
