"""Print a choice of hardware: the recommendation, a table of all candidates that suffice, and the rejected ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from benchmarks.choose.candidates import Choice, Job, Plan, Service, Task
from benchmarks.report.format import digits
from benchmarks.results.prices import Prices
from runtime.artifact.parity import format_cosine
from runtime.console import table


def as_text(task: Task, choice: Choice, demand: Service | Job, prices: Prices) -> str:
    """Return the choice for ``task``."""
    parts = [f"== {task.label} =="]
    if choice.plans:
        parts += ["\n".join(_recommend(choice.plans[0], demand, prices)), _ranking(choice, demand, prices)]
    else:
        parts.append("No setup meets the requirements.")
    rejected = [f"- {each.setup} ({each.machine.name}): {reason}" for each, reason in choice.rejected]
    return "\n\n".join([*parts, *(["\n".join(["Rejected:", *rejected])] if rejected else [])])


def as_record(task: Task, choice: Choice) -> dict[str, Any]:
    """Return the choice for ``task`` as a document for ``json.dumps``."""
    return asdict(task) | {
        "plans": [
            {
                "machine": plan.candidate.machine.name,
                "setup": plan.candidate.setup,
                "command": plan.candidate.command,
                "per_s": plan.candidate.per_s,
                "machines": plan.machines,
                "cost": plan.cost,
                "min_cosine": plan.candidate.min_cosine,
                "remark": plan.candidate.remark,
            }
            for plan in choice.plans
        ],
        "rejected": [
            {"machine": each.machine.name, "setup": each.setup, "reason": reason} for each, reason in choice.rejected
        ],
    }


def _recommend(plan: Plan, demand: Service | Job, prices: Prices) -> Iterator[str]:
    each = plan.candidate
    cost = f"{prices.currency} {plan.cost:,.2f} {demand.period}"
    yield f"Use {plan.machines} x {each.machine.name} with {each.setup}: {cost}."
    if each.command:
        yield f"Start each with: {each.command}"
    share = demand.per_s / plan.machines
    yield (
        f"Each machine gets {digits(share)} of the {digits(demand.per_s)} {demand.unit} per second, and can do "
        f"{digits(each.per_s)}."
    )


def _ranking(choice: Choice, demand: Service | Job, prices: Prices) -> str:
    header = ("machine", "setup", f"{demand.unit}/s", "machines", demand.period, "min cosine", "remark")
    rows = [
        (
            *(plan.candidate.machine.name, plan.candidate.setup, digits(plan.candidate.per_s), plan.machines),
            *(f"{plan.cost:,.2f}", format_cosine(plan.candidate.min_cosine or 0.0), plan.candidate.remark),
        )
        for plan in choice.plans
    ]
    note = f"Prices are in {prices.currency}, as of {prices.date}."
    if isinstance(demand, Service):
        note += f" {header[2]}: the highest measured rate of one machine with a p99 within {demand.max_p99_ms:g} ms."
    return f"{table(header, rows)}\n{note}"
