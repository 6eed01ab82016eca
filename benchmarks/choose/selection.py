"""Which machine, way to embed and batch size do a job for the least money, and what was in the way of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.choose.offers import Candidate, Offer
from benchmarks.choose.queueing import MOST_UTILISATION, Response, Service, instances_needed, respond
from benchmarks.results.prices import Prices, cost_per_million

HOURS_OF_A_MONTH = 730  # 365 days of 24 hours, by 12
_SECONDS_OF_A_DAY = 86400

Reason = Literal["no price", "no parity", "parity", "p95"]
Bound = Literal["p95", "capacity", "one"]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a service has to do.

    Attributes:
        per_day: Items a day.
        peak: How many times the mean of the day arrives at its busiest, for which instances are counted.
        max_p95_ms: Bound of the 95th percentile of the response: waiting and service.
        min_cosine: Bound of the smallest cosine similarity to torch.
    """

    per_day: float
    peak: float
    max_p95_ms: float
    min_cosine: float

    @property
    def mean_per_s(self) -> float:
        """Items a second, over the day."""
        return self.per_day / _SECONDS_OF_A_DAY

    @property
    def peak_per_s(self) -> float:
        """Items a second, at the peak."""
        return self.mean_per_s * self.peak


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Enough machines for a demand.

    Attributes:
        candidate: What they run.
        service: How long its batches take.
        instances: How many machines.
        utilisation: Arrivals at the peak, as a share of what they can do with batches as large as may be.
        p50_ms: Median response at the peak.
        p95_ms: Its 95th percentile.
        per_month: What they cost.
        per_million: What a million items cost, at the mean rate.
    """

    candidate: Candidate
    service: Service
    instances: int
    utilisation: float
    p50_ms: float
    p95_ms: float
    per_month: float
    per_million: float


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What cannot be chosen.

    Attributes:
        candidate: What.
        reason: Why not.
        figure: What is too small or too large: the cosine, or the p95 in ms that no number of machines betters.
    """

    candidate: Candidate
    reason: Reason
    figure: float | None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The answer for one job.

    Attributes:
        plans: The best of each machine and way, the cheapest first.
        left_out: What keeps no bound, or has no price.
        outdone: How many batch sizes keep the bounds and are no better than another of the same machine and way.
    """

    plans: tuple[Plan, ...]
    left_out: tuple[LeftOut, ...]
    outdone: int


@dataclass(frozen=True, kw_only=True)
class Reasoning:
    """Why a plan has as many instances as it has.

    Attributes:
        by_averages: Instances if the rate were divided by the mean throughput.
        averages_p95_ms: What they would answer in; ``None`` if the queue would grow without end.
        bound: What keeps it from one instance fewer.
        fewer_p95_ms: The p95 with one instance fewer; ``None`` where that was not the bound.
    """

    by_averages: int
    averages_p95_ms: float | None
    bound: Bound
    fewer_p95_ms: float | None


def choose(offers: Sequence[Offer], demand: Demand, prices: Prices) -> Choice:
    """Finds the cheapest plan of every offer.

    Args:
        offers: What does the same job.
        demand: What is asked for.
        prices: What machines cost.
    """
    plans, left_out = [], []
    for offer in offers:
        eligible = []
        for candidate in offer.candidates:
            fault = _fault(candidate, demand, prices)
            if fault:
                left_out.append(fault)
            else:
                eligible.append(candidate)
        plan = _best(eligible, demand, prices)
        if plan:
            plans.append(plan)
        else:
            left_out += [LeftOut(candidate=each, reason="p95", figure=_alone_p95_ms(each)) for each in eligible]
    plans.sort(key=_rank)
    count = sum(len(offer.candidates) for offer in offers)
    return Choice(plans=tuple(plans), left_out=tuple(left_out), outdone=count - len(plans) - len(left_out))


def explain(plan: Plan, demand: Demand) -> Reasoning:
    """Returns why ``plan`` has as many instances as it has."""
    rate, service = demand.peak_per_s, plan.service
    by_averages = math.ceil(rate / service.capacity)
    grows = rate >= by_averages * service.capacity
    fewer = plan.instances - 1
    bound = _bound(service, rate, fewer)
    return Reasoning(
        by_averages=by_averages,
        averages_p95_ms=None if grows else 1000 * respond(service, rate / by_averages).p95_s,
        bound=bound,
        fewer_p95_ms=1000 * respond(service, rate / fewer).p95_s if bound == "p95" else None,
    )


def _bound(service: Service, rate: float, fewer: int) -> Bound:
    if not fewer:
        return "one"
    return "capacity" if rate > MOST_UTILISATION * fewer * service.capacity else "p95"


def _rank(plan: Plan) -> tuple[float, float, int, str, str]:
    return (plan.per_month, plan.p95_ms, plan.candidate.batch, plan.candidate.machine, plan.candidate.label)


def _fault(candidate: Candidate, demand: Demand, prices: Prices) -> LeftOut | None:
    """Returns what can be said against ``candidate`` before any queue is simulated."""
    cosine = candidate.min_cosine
    if candidate.machine not in prices.machines:
        return LeftOut(candidate=candidate, reason="no price", figure=None)
    if cosine is None:
        return LeftOut(candidate=candidate, reason="no parity", figure=None)
    if cosine < demand.min_cosine:
        return LeftOut(candidate=candidate, reason="parity", figure=cosine)
    return None


def _best(candidates: Sequence[Candidate], demand: Demand, prices: Prices) -> Plan | None:
    """Returns the plan with the fewest instances, and among these the one that answers soonest.

    Those of the highest capacity come first, so that for most of the others it takes one simulation to see that they
    need more instances, or none.
    """
    best: Plan | None = None
    services = sorted(
        ((each.service(), each) for each in candidates), key=lambda pair: (-pair[0].capacity, pair[1].batch)
    )
    for service, candidate in services:
        at_most = best.instances if best else None
        found = instances_needed(service, demand.peak_per_s, demand.max_p95_ms / 1000, at_most)
        if found:
            plan = _plan(candidate, service, found, demand, prices)
            best = min(best or plan, plan, key=_rank)
    return best


def _plan(candidate: Candidate, service: Service, found: tuple[int, Response], demand: Demand, prices: Prices) -> Plan:
    instances, response = found
    per_hour = instances * prices.machines[candidate.machine].per_hour
    return Plan(
        candidate=candidate,
        service=service,
        instances=instances,
        utilisation=demand.peak_per_s / (instances * service.capacity),
        p50_ms=1000 * response.p50_s,
        p95_ms=1000 * response.p95_s,
        per_month=per_hour * HOURS_OF_A_MONTH,
        per_million=cost_per_million(demand.mean_per_s, per_hour),
    )


def _alone_p95_ms(candidate: Candidate) -> float:
    return 1000 * candidate.service().alone_p95_s
