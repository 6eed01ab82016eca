"""Find the cheapest machine, setup and batch size for a task, and the reasons against the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.choose.offers import Deployment, Offer
from benchmarks.choose.queueing import MAX_UTILIZATION, ResponseTimes, ServiceTimes, instances_needed, simulate
from benchmarks.results.prices import Prices, cost_per_million

HOURS_PER_MONTH = 730  # 365 days of 24 hours / 12
_SECONDS_PER_DAY = 86400

Reason = Literal["no price", "no parity", "parity", "p95"]
Bound = Literal["p95", "capacity", "one"]


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """Load and service level objective (SLO) of a service.

    Attributes:
        per_day: Items per day.
        peak: Rate of the busiest time of the day, as a multiple of the daily mean. Instances are counted for it.
        max_p95_ms: Limit of the 95th percentile of the response time, waiting included.
        min_cosine: Smallest allowed cosine similarity to torch.
    """

    per_day: float
    peak: float
    max_p95_ms: float
    min_cosine: float

    @property
    def mean_per_s(self) -> float:
        """Items per second, averaged over the day."""
        return self.per_day / _SECONDS_PER_DAY

    @property
    def peak_per_s(self) -> float:
        """Items per second at the peak."""
        return self.mean_per_s * self.peak


@dataclass(frozen=True, kw_only=True)
class HardwarePlan:
    """A deployment with enough instances for the requirements.

    Attributes:
        deployment: Machine, setup and largest batch.
        service: Times of its batches.
        instances: Number of machines.
        utilization: Rate at the peak as a share of the capacity with the largest batches.
        p50_ms: Median response time at the peak.
        p95_ms: 95th percentile of the response time at the peak.
        per_month: Cost per month.
        per_million: Cost of a million items at the mean rate.
    """

    deployment: Deployment
    service: ServiceTimes
    instances: int
    utilization: float
    p50_ms: float
    p95_ms: float
    per_month: float
    per_million: float


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A deployment that does not meet the requirements.

    Attributes:
        deployment: The deployment.
        reason: The requirement that it does not meet.
        figure: The value that is too low or too high: the cosine, or the p95 of an unloaded instance in ms.
    """

    deployment: Deployment
    reason: Reason
    figure: float | None


@dataclass(frozen=True, kw_only=True)
class HardwareChoice:
    """The result for one task.

    Attributes:
        plans: The best plan of each offer, the cheapest first.
        rejections: The deployments that do not meet the requirements or have no price.
        outdone: Number of deployments that meet the requirements but are no better than the plan of their offer.
    """

    plans: tuple[HardwarePlan, ...]
    rejections: tuple[Rejection, ...]
    outdone: int


@dataclass(frozen=True, kw_only=True)
class SizingRationale:
    """The reason for the number of instances of a plan.

    Attributes:
        by_averages: Instances from the rate divided by the mean throughput, without a queue.
        averages_p95_ms: Their p95 response time; ``None`` if their queue would grow without limit.
        bound: The limit that one instance fewer would break.
        fewer_p95_ms: The p95 response time with one instance fewer; ``None`` unless ``bound`` is ``p95``.
    """

    by_averages: int
    averages_p95_ms: float | None
    bound: Bound
    fewer_p95_ms: float | None


def choose_hardware(offers: Sequence[Offer], requirements: Requirements, prices: Prices) -> HardwareChoice:
    """Find the cheapest plan of each offer.

    Args:
        offers: The offers for one task.
        requirements: Load and service level objective.
        prices: Prices of machines.
    """
    plans, rejections = [], []
    for offer in offers:
        eligible = []
        for deployment in offer:
            rejection = _reject(deployment, requirements, prices)
            if rejection:
                rejections.append(rejection)
            else:
                eligible.append(deployment)
        plan = _best_plan(eligible, requirements, prices)
        if plan:
            plans.append(plan)
        else:
            rejections += [Rejection(deployment=d, reason="p95", figure=_unloaded_p95_ms(d)) for d in eligible]
    plans.sort(key=_rank)
    outdone = sum(len(offer) for offer in offers) - len(plans) - len(rejections)
    return HardwareChoice(plans=tuple(plans), rejections=tuple(rejections), outdone=outdone)


def explain_sizing(plan: HardwarePlan, requirements: Requirements) -> SizingRationale:
    """Return the reason for the number of instances of ``plan``."""
    rate, service = requirements.peak_per_s, plan.service
    by_averages = math.ceil(rate / service.capacity)
    grows = rate >= by_averages * service.capacity
    fewer = plan.instances - 1
    bound = _bound(service, rate, fewer)
    return SizingRationale(
        by_averages=by_averages,
        averages_p95_ms=None if grows else 1000 * simulate(service, rate / by_averages).p95_s,
        bound=bound,
        fewer_p95_ms=1000 * simulate(service, rate / fewer).p95_s if bound == "p95" else None,
    )


def _bound(service: ServiceTimes, rate: float, fewer: int) -> Bound:
    if not fewer:
        return "one"
    return "capacity" if rate > MAX_UTILIZATION * fewer * service.capacity else "p95"


def _rank(plan: HardwarePlan) -> tuple[float, float, int, str, str]:
    deployment = plan.deployment
    return (plan.per_month, plan.p95_ms, deployment.max_batch, deployment.machine, deployment.label)


def _reject(deployment: Deployment, requirements: Requirements, prices: Prices) -> Rejection | None:
    """Return the reason against ``deployment`` that needs no simulation."""
    cosine = deployment.min_cosine
    if deployment.machine not in prices.machines:
        return Rejection(deployment=deployment, reason="no price", figure=None)
    if cosine is None:
        return Rejection(deployment=deployment, reason="no parity", figure=None)
    if cosine < requirements.min_cosine:
        return Rejection(deployment=deployment, reason="parity", figure=cosine)
    return None


def _best_plan(deployments: Sequence[Deployment], requirements: Requirements, prices: Prices) -> HardwarePlan | None:
    """Return the plan with the fewest instances, and among those the one with the lowest p95.

    Deployments with a high capacity come first. Most others then take one simulation to show that they need more
    instances.
    """
    best: HardwarePlan | None = None
    services = sorted(
        ((each.service_times(), each) for each in deployments), key=lambda pair: (-pair[0].capacity, pair[1].max_batch)
    )
    for service, deployment in services:
        at_most = best.instances if best else None
        found = instances_needed(service, requirements.peak_per_s, requirements.max_p95_ms / 1000, at_most)
        if found:
            plan = _plan(deployment, service, found, requirements, prices)
            best = min(best or plan, plan, key=_rank)
    return best


def _plan(
    deployment: Deployment,
    service: ServiceTimes,
    found: tuple[int, ResponseTimes],
    requirements: Requirements,
    prices: Prices,
) -> HardwarePlan:
    instances, response = found
    per_hour = instances * prices.machines[deployment.machine].per_hour
    return HardwarePlan(
        deployment=deployment,
        service=service,
        instances=instances,
        utilization=requirements.peak_per_s / (instances * service.capacity),
        p50_ms=1000 * response.p50_s,
        p95_ms=1000 * response.p95_s,
        per_month=per_hour * HOURS_PER_MONTH,
        per_million=cost_per_million(requirements.mean_per_s, per_hour),
    )


def _unloaded_p95_ms(deployment: Deployment) -> float:
    return 1000 * deployment.service_times().unloaded_p95_s
