"""Test the simulated queue against queues with a solution in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.choose import queueing
from benchmarks.choose.queueing import (
    MAX_UTILIZATION,
    ServiceTimes,
    instances_needed,
    interpolate_service_times,
    simulate,
)
from tests.benchmarks.choose.distributions import exponential

MU = 200.0  # services per second


def same_for_all_sizes(times: list[float], largest: int) -> ServiceTimes:
    return interpolate_service_times({1: times, largest: times}, largest)


@pytest.mark.parametrize("utilization", [0.2, 0.5, 0.8])
def test_exponential_services_respond_as_in_mm1(utilization: float) -> None:
    # The response time of M/M/1 is exponential with rate mu - lambda, so p95 is ln(20) times the mean.
    response = simulate(interpolate_service_times({1: exponential(1 / MU)}, 1), utilization * MU)
    mean = 1 / (MU - utilization * MU)
    assert response.p95_s == pytest.approx(math.log(20) * mean, rel=0.025)
    assert response.p50_s == pytest.approx(math.log(2) * mean, rel=0.025)
    assert response.mean_s == pytest.approx(mean, rel=0.025)


@pytest.mark.parametrize("utilization", [0.2, 0.5, 0.8])
def test_constant_services_wait_as_in_md1(utilization: float) -> None:
    response = simulate(interpolate_service_times({1: [1 / MU]}, 1), utilization * MU)
    expected = utilization / (2 * MU * (1 - utilization))  # Pollaczek and Khinchine
    assert response.mean_s - 1 / MU == pytest.approx(expected, rel=0.025)


@pytest.mark.parametrize("largest", [2, 8])
@pytest.mark.parametrize("utilization", [0.3, 0.7])
def test_batches_wait_as_in_a_queue_with_bulk_service(largest: int, utilization: float) -> None:
    """Check batches of up to B with exponential times, the same for all sizes: n wait with probability C r^n.

    Source: Bailey, On queueing processes with bulk service, 1954; https://en.wikipedia.org/wiki/Bulk_queue
    """
    rate = utilization * largest * MU
    low, high = 0.0, 1.0
    for _ in range(60):  # lambda / mu = r + r^2 + ... + r^B
        root = (low + high) / 2
        below = sum(root**k for k in range(1, largest + 1)) < rate / MU
        low, high = (root, high) if below else (low, root)
    waiting = root / (1 - root) ** 2 / (MU / rate + 1 / (1 - root))
    response = simulate(same_for_all_sizes(exponential(1 / MU), largest), rate)
    assert response.mean_s == pytest.approx(waiting / rate + 1 / MU, rel=0.025)


@pytest.mark.parametrize("largest", [1, 8])
def test_at_light_load_response_times_are_service_times(largest: int) -> None:
    times = [0.010] * 18 + [0.020] * 2
    response = simulate(same_for_all_sizes(times, largest), 1e-6)
    assert [response.p50_s, response.p95_s, response.mean_s] == pytest.approx([0.010, 0.020, 0.011], rel=0.005)


def test_waiting_items_become_one_batch() -> None:
    # One at a time, an instance embeds 100 per second, and 600 arrive.
    service = same_for_all_sizes([0.010], 32)
    assert service.capacity == pytest.approx(3200)
    response = simulate(service, 600)
    assert 0.010 < response.p50_s < 0.020, "the rest of the batch before, and its own"
    assert response.p95_s <= 0.020 + 1e-9


def test_times_are_interpolated_between_measured_sizes() -> None:
    service = interpolate_service_times({8: [0.8, 1.6], 4: [0.4, 0.4], 16: [9.0]}, 8)
    assert service.largest == 8
    np.testing.assert_allclose(service.quantiles_s[:, 0], [0.4, 0.4, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8])
    np.testing.assert_allclose(service.quantiles_s[:, -1], [0.4, 0.4, 0.4, 0.4, 0.7, 1.0, 1.3, 1.6])


def test_simulations_are_reproducible() -> None:
    service = same_for_all_sizes(exponential(0.01), 4)
    first = simulate(service, 200)
    queueing.random_draws.cache_clear()
    queueing.random_draw_lists.cache_clear()
    assert simulate(service, 200) == first


def test_the_fewest_instances_are_found() -> None:
    # p95 <= 30 ms needs mu - lambda / n >= ln(20) / 0.03 = 99.9, so lambda / n <= 100.1 and n >= 5.8.
    service = interpolate_service_times({1: exponential(1 / MU)}, 1)
    found = instances_needed(service, 50e6 / 86400, 0.030)
    assert found is not None
    assert found[0] == 6
    assert instances_needed(service, 50e6 / 86400, 0.030, at_most=5) is None
    assert instances_needed(service, 50e6 / 86400, 0.030, at_most=9) == found
    many = instances_needed(service, 50e6 / 864, 0.030)
    assert many is not None
    assert many[0] == pytest.approx(50e6 / 864 / 100.1, rel=0.02)


def test_no_instance_exceeds_the_maximum_utilization() -> None:
    service = interpolate_service_times({1: [0.010]}, 1)
    found = instances_needed(service, 100 * 2 * (MAX_UTILIZATION + 0.01), 100.0)
    assert found is not None
    assert found[0] == 3


def test_no_number_of_instances_makes_a_service_faster() -> None:
    assert instances_needed(interpolate_service_times({1: [0.040]}, 1), 100, 0.030) is None
    # With twenty times, p95 is the slowest one, not a value between the two slowest.
    assert interpolate_service_times({1: [0.010] * 19 + [0.040]}, 1).unloaded_p95_s == 0.040
    exactly = instances_needed(interpolate_service_times({1: [0.007]}, 1), 0.1, 0.007)
    assert exactly is not None
    assert exactly[0] == 1, "what takes as long as the bound keeps it"
