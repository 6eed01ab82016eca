"""How long items wait and are worked on, by simulation, from times that were measured at a few batch sizes.

An instance is one server. When it is free it takes what waits, up to a largest batch, and works on that at once; it
never waits for a batch to fill. Items arrive at random (a Poisson process), and each goes to an instance at random, so
that each instance sees a Poisson process of its own share.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

# Times are measured to within some 5 %: whether a queue that is nearer to its limit than that is stable is not known.
MOST_UTILISATION = 0.95
_MOST_SPARE = 1000  # with so many times the least instances, next to nobody waits: more of them change nothing
# p95 is good to 2 % up to four fifths of the capacity, measured over seeds and against M/M/1; to 4 % at nine tenths,
# where it rises so steeply that the number of instances hardly feels it.
_ARRIVALS = 2**19
_BATCHES = 2**14
_ROUNDING = 1e-9  # a service time that equals the bound keeps it, though it went through another unit of time
_WARM_UP = 0.1  # share of the arrivals that find a queue which is still filling
_QUANTILES = 1000
_SEED = 0


@dataclass(frozen=True)
class Service:
    """How long a batch takes.

    Attributes:
        quantiles_s: ``[largest batch, 1000]`` float64: seconds of a batch of 1, 2, ... items, evenly spaced quantiles.
    """

    quantiles_s: Array

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
        """Items a second, when there is always a largest batch waiting."""
        return self.largest / self.mean_s

    @property
    def alone_p95_s(self) -> float:
        """95th percentile of the seconds of an item that never waits: no number of instances is faster."""
        return float(np.percentile(self.quantiles_s[0], 95, method="higher"))


@dataclass(frozen=True)
class Response:
    """How long items are in the system: waiting and being worked on.

    Attributes:
        p50_s: Median, in seconds.
        p95_s: 95th percentile.
        mean_s: Mean.
    """

    p50_s: float
    p95_s: float
    mean_s: float


def service_times(measured: Mapping[int, Sequence[float]], largest: int) -> Service:
    """Returns how long batches of up to ``largest`` items take.

    Between two sizes that were measured, each quantile is interpolated; below the smallest, its own times are taken.

    Args:
        measured: Seconds of every call, by the items of a call.
        largest: One of those sizes.
    """
    sizes = sorted(measured)
    at = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    known = np.stack([np.quantile(np.asarray(measured[size]), at, method="inverted_cdf") for size in sizes])
    batches = np.arange(1, largest + 1)
    return Service(np.stack([np.interp(batches, sizes, quantile) for quantile in known.T], axis=1))


def respond(service: Service, rate: float) -> Response:
    """Simulates one instance, always with the same random numbers.

    Args:
        service: How long its batches take.
        rate: Items a second that arrive at it.
    """
    in_system = (_one_by_one if service.largest == 1 else _in_batches)(service.quantiles_s * rate)
    settled = in_system[int(_WARM_UP * len(in_system)) :] / rate
    p50, p95 = np.percentile(settled, [50, 95])
    return Response(float(p50), float(p95), float(settled.mean()))


def instances_needed(
    service: Service, rate: float, max_p95_s: float, at_most: int | None = None
) -> tuple[int, Response] | None:
    """Returns the fewest instances that keep the bound, and how they respond; ``None`` if no number of them does.

    Args:
        service: How long the batches of an instance take.
        rate: Items a second that arrive in all.
        max_p95_s: Bound of the 95th percentile of the response, in seconds.
        at_most: More instances than that are not of interest.
    """
    least = math.ceil(rate / (MOST_UTILISATION * service.capacity))
    limit = at_most or _MOST_SPARE * least
    max_p95_s *= 1 + _ROUNDING
    if least > limit or service.alone_p95_s > max_p95_s:
        return None
    too_few, enough = least - 1, at_most or least
    while (found := respond(service, rate / enough)).p95_s > max_p95_s:
        if enough == limit:
            return None
        too_few, enough = enough, min(2 * enough, limit)
    return _fewest(service, rate, max_p95_s, too_few, (enough, found))


def _fewest(
    service: Service, rate: float, max_p95_s: float, too_few: int, enough: tuple[int, Response]
) -> tuple[int, Response]:
    """Bisects between what is too few and what is enough: with more instances, nobody waits longer."""
    while enough[0] - too_few > 1:
        middle = (too_few + enough[0]) // 2
        response = respond(service, rate / middle)
        if response.p95_s <= max_p95_s:
            enough = (middle, response)
        else:
            too_few = middle
    return enough


def _one_by_one(quantiles: Array) -> Array:
    """Returns the time in the system of each arrival, with the mean time between arrivals as the unit.

    Source: Lindley, The theory of queues with a single server, 1952, https://doi.org/10.1017/S0305004100027638
    """
    arrivals, draws = _randomness()
    service = quantiles[0][draws]
    steps = np.concatenate([[0.0], service[:-1] - np.diff(arrivals)]).cumsum()
    return np.asarray(steps - np.minimum.accumulate(steps) + service)


def _in_batches(quantiles: Array) -> Array:
    """Does what :func:`_one_by_one` does, for batches, until arrivals or batches run out."""
    arrivals, draws = _randomness_as_lists()
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
    return np.asarray(np.repeat(starts, sizes) - _randomness()[0][:first] + np.repeat(seconds, sizes))


@functools.cache
def _randomness() -> tuple[Array, np.ndarray[Any, np.dtype[np.int64]]]:
    """Returns the times of arrivals, one a unit of time in the mean, and which quantile each service takes.

    All simulations share them, so that a difference between two is one of the queues and not of chance.
    """
    generator = np.random.default_rng(_SEED)
    return generator.exponential(size=_ARRIVALS).cumsum(), generator.integers(0, _QUANTILES, _ARRIVALS)


@functools.cache
def _randomness_as_lists() -> tuple[list[float], list[int]]:
    arrivals, draws = _randomness()
    return arrivals.tolist(), draws[:_BATCHES].tolist()
