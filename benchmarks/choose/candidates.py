"""Candidates of a task, and the machines that each of them takes for a demand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results.prices import Prices, cost_per_million
from benchmarks.results.schema import BenchmarkMachine, ResultsError
from runtime.artifact.parity import format_cosine
from runtime.errors import UsageError

HOURS_PER_MONTH = 730  # 365 days of 24 hours / 12


@dataclass(frozen=True, kw_only=True, order=True)
class Task:
    """Work to do. Only candidates of the same task are compared: others give other vectors, or do other work."""

    artifact: str
    work: str  # such as `text`, or `own, 1 item per request`.
    vectors: str  # name of the vector space, or hash of the artifact's manifest.

    @property
    def label(self) -> str:
        """Name of the task, for display."""
        return f"{self.artifact}, {self.work} ({self.vectors})"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A setup on a machine."""

    path: Path  # report that measured it.
    date: str  # date of that report.
    task: Task
    machine: BenchmarkMachine
    setup: str  # such as `runtime int8 on cpu`.
    command: str  # command that starts it; empty if it is unknown.
    per_s: float  # requests or items per second that one machine can do; 0 if `fault` says why it can do none.
    fault: str
    min_cosine: float | None  # smallest cosine similarity to the reference; `None` if there is none.
    no_cosine: str  # what to do if there is none.
    remark: str


@dataclass(frozen=True, kw_only=True)
class Service:
    """Requests that arrive at random, and a bound of their latency."""

    rate: float  # requests per second at the peak.
    max_p99_ms: float
    unit = "requests"
    period = "per month"

    @property
    def per_s(self) -> float:
        """Requests per second of all machines together."""
        return self.rate

    def cost(self, candidate: Candidate, machines: int, per_hour: float) -> float:
        """Return the cost of a month."""
        return machines * per_hour * HOURS_PER_MONTH


@dataclass(frozen=True, kw_only=True)
class Job:
    """Items that must be embedded within a time."""

    count: float
    hours: float
    unit = "items"
    period = "for the job"

    @property
    def per_s(self) -> float:
        """Items per second of all machines together."""
        return self.count / (3600 * self.hours)

    def cost(self, candidate: Candidate, machines: int, per_hour: float) -> float:
        """Return the cost of the hours in which the machines work, together."""
        return cost_per_million(candidate.per_s, per_hour) * self.count / 1e6


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A candidate with enough machines."""

    candidate: Candidate
    machines: int
    cost: float  # of a month, or of the job.


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The result for one task."""

    plans: tuple[Plan, ...]  # the cheapest first.
    rejected: tuple[tuple[Candidate, str], ...]  # the other candidates, each with the reason.


def choose_machines(
    candidates: Sequence[Candidate], demand: Service | Job, min_cosine: float, prices: Prices
) -> Choice:
    """Return the machines that each of ``candidates`` takes for ``demand``, and the reasons against the others.

    A machine of a service gets its share of the requests. If they arrive as a Poisson process and go to machines at
    random, each machine gets a Poisson process, as in the load test. So the rates of machines add up.
    """
    plans, rejected = [], []
    for candidate in candidates:
        per_hour = prices.per_hour(candidate.machine.name)
        reason = _find_obstacle(candidate, min_cosine, per_hour)
        if reason or per_hour is None:
            rejected.append((candidate, reason))
            continue
        machines = max(1, math.ceil(round(demand.per_s / candidate.per_s, 9)))
        cost = demand.cost(candidate, machines, per_hour)
        plans.append(Plan(candidate=candidate, machines=machines, cost=cost))
    plans.sort(key=lambda plan: (plan.cost, plan.machines, plan.candidate.machine.name, plan.candidate.setup))
    return Choice(plans=tuple(plans), rejected=tuple(rejected))


def _find_obstacle(candidate: Candidate, min_cosine: float, per_hour: float | None) -> str:
    if per_hour is None:
        name = candidate.machine.name
        return f'no price; add [machines."{name}"] to the price file, or measure with the --machine name it has'
    if candidate.min_cosine is None:
        return candidate.no_cosine
    if candidate.min_cosine < min_cosine:
        return f"cosine similarity down to {format_cosine(candidate.min_cosine)}, below --min-cosine {min_cosine:g}"
    return candidate.fault


def sort_by_task(
    found: Sequence[Candidate], artifact: str | None
) -> tuple[dict[Task, tuple[Candidate, ...]], list[str]]:
    """Return the newest candidates of each machine and setup by task, and warnings about them.

    Only those of ``artifact`` are kept, if it is given.

    Raises:
        UsageError: There is no candidate of that artifact.
    """
    ordered = sorted(found, key=lambda each: each.date)
    newest = {(each.task, each.machine.name, each.setup, each.command): each for each in ordered}
    wanted = [each for each in newest.values() if artifact in (None, each.task.artifact)]
    if not wanted:
        names = ", ".join(sorted({each.task.artifact for each in found}))
        raise UsageError(f"the reports have no artifact {artifact}; they have: {names}")
    tasks = {
        task: tuple(each for each in wanted if each.task == task) for task in sorted({each.task for each in wanted})
    }
    warnings = [*_repetitions(len(found) - len(newest)), *_same_names(tasks)]
    return tasks, warnings


def _repetitions(count: int) -> Iterator[str]:
    if count:
        setups = "1 setup was" if count == 1 else f"{count} setups were"
        yield f"{setups} measured more than once on the same machine; the newest figures are used"


def _same_names(tasks: Mapping[Task, object]) -> Iterator[str]:
    vectors = {(task.artifact, task.vectors) for task in tasks}
    names = [name for name, _ in vectors]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield (
            f"several artifacts are called {name}; each gets its own choice, because their vectors may differ. "
            "To compare machines, copy one artifact to all of them instead of exporting it on each"
        )


def check_machines(candidates: Iterable[Candidate]) -> None:
    """Check that machines of one name have the same hardware.

    Raises:
        ResultsError: They differ.
    """
    first: dict[str, Candidate] = {}
    for each in candidates:
        name = each.machine.name
        before, now = _hardware(first.setdefault(name, each).machine), _hardware(each.machine)
        differences = [f"{fact} {before[fact]} -> {now[fact]}" for fact in now if before[fact] != now[fact]]
        if differences:
            raise ResultsError(
                f"the machines of {first[name].path} and {each.path} are both called {name} but differ "
                f"({'; '.join(differences)}); measure one of them with another --machine NAME and give each a price"
            )


def _hardware(machine: BenchmarkMachine) -> dict[str, object]:
    """Return the facts that a machine of the same price has in common."""
    names = ("cpu", "architecture", "cores_allowed", "cpu_quota", "threads")
    return {name: getattr(machine, name) for name in names} | {
        "gpus": ", ".join(gpu.name for gpu in machine.gpus) or "none"
    }
