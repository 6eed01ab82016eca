"""Simulate response times of a service, from times that were measured at a few batch sizes.

An instance is one server. When it is free, it takes all waiting items, up to the largest batch, as one batch. It never
waits for a batch to fill. Items arrive as a Poisson process, and each goes to a random instance. Each instance thus
sees a Poisson process with its share of the rate.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.array_types import Float64Array

# Times are measured to about 5%. It is unknown whether a queue closer to its capacity is stable.
MAX_UTILIZATION = 0.95
_MAX_SPARE = 1000  # with this multiple of the fewest instances, items hardly wait; more instances change nothing
# The error of p95 is 2% up to a utilization of 80%, measured over seeds and against M/M/1. It is 4% at 90%, where p95
# rises so steeply that the number of instances hardly depends on it.
_ARRIVALS = 2**19
_BATCHES = 2**14
_ROUNDING = 1e-9  # a service time equal to the limit is accepted, although a change of units rounded it.
_WARM_UP = 0.1  # share of the arrivals to discard, because the queue is still filling.
_QUANTILES = 1000
_SEED = 0


@dataclass(frozen=True)
class ServiceTimes:
    """Times of batches."""

    # evenly spaced quantiles of the seconds of a batch of 1, 2, ... items: float64 `[largest batch, 1000]`.
    quantiles_s: Float64Array

    @property
    def largest(self) -> int:
        """Items of the largest batch."""
        return len(self.quantiles_s)

    @property
    def mean_s(self) -> float:
        """Mean seconds of the largest batch."""
        return float(self.quantiles_s[-1].mean())

    @property
    def capacity(self) -> float:
        """Items per second if the largest batch is always waiting."""
        return self.largest / self.mean_s

    @property
    def unloaded_p95_s(self) -> float:
        """95th percentile of the seconds of an item that never waits; no number of instances is faster."""
        return float(np.percentile(self.quantiles_s[0], 95, method="higher"))


@dataclass(frozen=True)
class ResponseTimes:
    """Seconds from the arrival of an item to its vector, waiting included."""

    p50_s: float
    p95_s: float
    mean_s: float


def interpolate_service_times(measured: Mapping[int, Sequence[float]], largest: int) -> ServiceTimes:
    """Return the times of batches with up to ``largest`` items.

    ``measured`` has the seconds of every call, by batch size; ``largest`` is one of these sizes. Quantiles are
    interpolated between two measured sizes. Below the smallest size, its times are used.
    """
    sizes = sorted(measured)
    at = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    known = np.stack([np.quantile(np.asarray(measured[size]), at, method="inverted_cdf") for size in sizes])
    batches = np.arange(1, largest + 1)
    return ServiceTimes(np.stack([np.interp(batches, sizes, quantile) for quantile in known.T], axis=1))


def simulate(service: ServiceTimes, rate: float) -> ResponseTimes:
    """Simulate one instance at which ``rate`` items per second arrive, always with the same random numbers."""
    in_system = (_one_by_one if service.largest == 1 else _in_batches)(service.quantiles_s * rate)
    settled = in_system[int(_WARM_UP * len(in_system)) :] / rate
    p50, p95 = np.percentile(settled, [50, 95])
    return ResponseTimes(float(p50), float(p95), float(settled.mean()))


def instances_needed(
    service: ServiceTimes, rate: float, max_p95_s: float, at_most: int | None = None
) -> tuple[int, ResponseTimes] | None:
    """Return the fewest instances that keep the limit, with their response times; ``None`` if no number does.

    Args:
        service: Times of the batches of an instance.
        rate: Items per second that arrive at all instances together.
        max_p95_s: Limit of the 95th percentile of the response time, in seconds.
        at_most: Largest number of instances to consider.
    """
    least = math.ceil(rate / (MAX_UTILIZATION * service.capacity))
    limit = at_most or _MAX_SPARE * least
    max_p95_s *= 1 + _ROUNDING
    if least > limit or service.unloaded_p95_s > max_p95_s:
        return None
    too_few, enough = least - 1, at_most or least
    while (found := simulate(service, rate / enough)).p95_s > max_p95_s:
        if enough == limit:
            return None
        too_few, enough = enough, min(2 * enough, limit)
    return _fewest(service, rate, max_p95_s, too_few, (enough, found))


def _fewest(
    service: ServiceTimes, rate: float, max_p95_s: float, too_few: int, enough: tuple[int, ResponseTimes]
) -> tuple[int, ResponseTimes]:
    """Bisect between too few and enough; more instances never make an item wait longer."""
    while enough[0] - too_few > 1:
        middle = (too_few + enough[0]) // 2
        response = simulate(service, rate / middle)
        if response.p95_s <= max_p95_s:
            enough = (middle, response)
        else:
            too_few = middle
    return enough


def _one_by_one(quantiles: Float64Array) -> Float64Array:
    """Return the response time of each arrival, in units of the mean time between arrivals.

    Source: Lindley, The theory of queues with a single server, 1952, https://doi.org/10.1017/S0305004100027638
    """
    arrivals, draws = random_draws()
    service = quantiles[0][draws]
    steps = np.concatenate([[0.0], service[:-1] - np.diff(arrivals)]).cumsum()
    return np.asarray(steps - np.minimum.accumulate(steps) + service)


def _in_batches(quantiles: Float64Array) -> Float64Array:
    """Return the same as :func:`_one_by_one` for batches, until arrivals or batches run out."""
    arrivals, draws = random_draw_lists()
    times, largest = quantiles.tolist(), len(quantiles)
    starts, seconds, sizes = [], [], []
    first, free = 0, 0.0
    for draw in draws:
        if first + largest > _ARRIVALS:
            break
        start = arrivals[first] if arrivals[first] > free else free
        after = bisect_right(arrivals, start, first, first + largest)
        starts.append(start)
        seconds.append(times[after - first - 1][draw])
        sizes.append(after - first)
        first, free = after, start + seconds[-1]
    return np.asarray(np.repeat(starts, sizes) - random_draws()[0][:first] + np.repeat(seconds, sizes))


@functools.cache
def random_draws() -> tuple[Float64Array, np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the time of each arrival, one per unit of time on average, and the quantile of each service.

    All simulations share them, so that chance makes no difference between two queues.
    """
    generator = np.random.default_rng(_SEED)
    return generator.exponential(size=_ARRIVALS).cumsum(), generator.integers(0, _QUANTILES, _ARRIVALS)


@functools.cache
def random_draw_lists() -> tuple[list[float], list[int]]:
    """Return :func:`random_draws` as lists, which a loop reads faster."""
    arrivals, draws = random_draws()
    return arrivals.tolist(), draws[:_BATCHES].tolist()
