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
    """Load and service level objective (SLO) of a service."""

    per_day: float
    peak: float  # rate of the busiest time of the day, as a multiple of the daily mean. Instances are counted for it.
    max_p95_ms: float  # limit of the 95th percentile of the response time, waiting included.
    min_cosine: float  # smallest allowed cosine similarity to torch.

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
    """A deployment with enough instances for the requirements."""

    deployment: Deployment  # machine, setup and largest batch.
    service: ServiceTimes  # times of its batches.
    instances: int  # number of machines.
    utilization: float  # rate at the peak as a share of the capacity with the largest batches.
    p50_ms: float  # median response time at the peak.
    p95_ms: float  # 95th percentile of the response time at the peak.
    per_month: float
    per_million: float  # cost of a million items at the mean rate.


@dataclass(frozen=True)
class Rejection:
    """A deployment that does not meet the requirements."""

    deployment: Deployment
    reason: Reason  # the requirement that it does not meet.
    figure: float | None  # the value that is too low or too high: the cosine, or the p95 of an unloaded instance in ms.


@dataclass(frozen=True, kw_only=True)
class HardwareChoice:
    """The result for one task."""

    plans: tuple[HardwarePlan, ...]  # the best plan of each offer, the cheapest first.
    rejections: tuple[Rejection, ...]  # the deployments that do not meet the requirements or have no price.
    outdone: int  # number of deployments that meet the requirements but are no better than the plan of their offer.


@dataclass(frozen=True, kw_only=True)
class SizingRationale:
    """The reason for the number of instances of a plan."""

    by_averages: int  # instances from the rate divided by the mean throughput, without a queue.
    averages_p95_ms: float | None  # their p95 response time; `None` if their queue would grow without limit.
    bound: Bound  # the limit that one instance fewer would break.
    fewer_p95_ms: float | None  # the p95 response time with one instance fewer; `None` unless `bound` is `p95`.


def choose_hardware(offers: Sequence[Offer], requirements: Requirements, prices: Prices) -> HardwareChoice:
    """Find the cheapest plan of each of the ``offers`` for one task."""
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
            rejections += [Rejection(d, "p95", 1000 * d.service_times().unloaded_p95_s) for d in eligible]
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
        return Rejection(deployment, "no price", None)
    if cosine is None:
        return Rejection(deployment, "no parity", None)
    if cosine < requirements.min_cosine:
        return Rejection(deployment, "parity", cosine)
    return None


def _best_plan(deployments: Sequence[Deployment], requirements: Requirements, prices: Prices) -> HardwarePlan | None:
    """Return the plan with the fewest instances, and among those the one with the lowest p95.

    Deployments with a high capacity come first. Most others then take one simulation to show that they need more
    instances.
    """
    best: HardwarePlan | None = None
    pairs = [(deployment.service_times(), deployment) for deployment in deployments]
    for service, deployment in sorted(pairs, key=lambda pair: (-pair[0].capacity, pair[1].max_batch)):
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
