"""The simulated queue does what theory says of the queues that theory knows. Nothing here is timed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.choose import queueing
from benchmarks.choose.queueing import MOST_UTILISATION, Service, instances_needed, respond, service_times

MU = 200.0  # services a second


def exponential(mean_s: float) -> list[float]:
    """Returns a thousand evenly spaced quantiles of exponential times."""
    return [float(time) for time in -mean_s * np.log1p(-(np.arange(1000) + 0.5) / 1000)]


def same_for_all_sizes(times: list[float], largest: int) -> Service:
    return service_times({1: times, largest: times}, largest)


@pytest.mark.parametrize("utilisation", [0.2, 0.5, 0.8])
def test_exponential_services_respond_as_in_mm1(utilisation: float) -> None:
    # The response of M/M/1 is exponential, at the rate mu - lambda: its p95 is ln(20) of its means.
    response = respond(service_times({1: exponential(1 / MU)}, 1), utilisation * MU)
    mean = 1 / (MU - utilisation * MU)
    assert response.p95_s == pytest.approx(math.log(20) * mean, rel=0.025)
    assert response.p50_s == pytest.approx(math.log(2) * mean, rel=0.025)
    assert response.mean_s == pytest.approx(mean, rel=0.025)


@pytest.mark.parametrize("utilisation", [0.2, 0.5, 0.8])
def test_constant_services_wait_as_in_md1(utilisation: float) -> None:
    response = respond(service_times({1: [1 / MU]}, 1), utilisation * MU)
    expected = utilisation / (2 * MU * (1 - utilisation))  # Pollaczek and Khinchine
    assert response.mean_s - 1 / MU == pytest.approx(expected, rel=0.025)


@pytest.mark.parametrize("largest", [2, 8])
@pytest.mark.parametrize("utilisation", [0.3, 0.7])
def test_batches_wait_as_in_a_queue_with_bulk_service(largest: int, utilisation: float) -> None:
    """Batches of up to B, exponential times that are the same for all sizes: n wait with probability C r^n.

    Source: Bailey, On queueing processes with bulk service, 1954; https://en.wikipedia.org/wiki/Bulk_queue
    """
    rate = utilisation * largest * MU
    low, high = 0.0, 1.0
    for _ in range(60):  # lambda / mu = r + r^2 + ... + r^B
        root = (low + high) / 2
        below = sum(root**k for k in range(1, largest + 1)) < rate / MU
        low, high = (root, high) if below else (low, root)
    waiting = root / (1 - root) ** 2 / (MU / rate + 1 / (1 - root))
    response = respond(same_for_all_sizes(exponential(1 / MU), largest), rate)
    assert response.mean_s == pytest.approx(waiting / rate + 1 / MU, rel=0.025)


@pytest.mark.parametrize("largest", [1, 8])
def test_at_light_load_an_item_takes_the_service_alone(largest: int) -> None:
    times = [0.010] * 18 + [0.020] * 2
    response = respond(same_for_all_sizes(times, largest), 1e-6)
    assert [response.p50_s, response.p95_s, response.mean_s] == pytest.approx([0.010, 0.020, 0.011], rel=0.005)


def test_what_waits_is_taken_as_one_batch() -> None:
    # One at a time an instance does 100 a second, and here 600 arrive.
    service = same_for_all_sizes([0.010], 32)
    assert service.capacity == pytest.approx(3200)
    response = respond(service, 600)
    assert 0.010 < response.p50_s < 0.020, "the rest of the batch before, and its own"
    assert response.p95_s <= 0.020 + 1e-9


def test_times_are_interpolated_between_the_sizes_that_were_measured() -> None:
    service = service_times({8: [0.8, 1.6], 4: [0.4, 0.4], 16: [9.0]}, 8)
    assert service.largest == 8
    np.testing.assert_allclose(service.quantiles_s[:, 0], [0.4, 0.4, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8])
    np.testing.assert_allclose(service.quantiles_s[:, -1], [0.4, 0.4, 0.4, 0.4, 0.7, 1.0, 1.3, 1.6])


def test_the_same_question_has_the_same_answer() -> None:
    service = same_for_all_sizes(exponential(0.01), 4)
    first = respond(service, 200)
    queueing._randomness.cache_clear()
    queueing._randomness_as_lists.cache_clear()
    assert respond(service, 200) == first


def test_the_fewest_instances_are_found() -> None:
    # p95 <= 30 ms wants mu - lambda / n >= ln(20) / 0.03 = 99.9, so lambda / n <= 100.1, and n >= 5.8.
    service = service_times({1: exponential(1 / MU)}, 1)
    found = instances_needed(service, 50e6 / 86400, 0.030)
    assert found is not None
    assert found[0] == 6
    assert instances_needed(service, 50e6 / 86400, 0.030, at_most=5) is None
    assert instances_needed(service, 50e6 / 86400, 0.030, at_most=9) == found
    many = instances_needed(service, 50e6 / 864, 0.030)
    assert many is not None
    assert many[0] == pytest.approx(50e6 / 864 / 100.1, rel=0.02)


def test_no_instance_is_loaded_to_where_the_queue_may_grow() -> None:
    service = service_times({1: [0.010]}, 1)
    found = instances_needed(service, 100 * 2 * (MOST_UTILISATION + 0.01), 100.0)
    assert found is not None
    assert found[0] == 3


def test_no_number_of_instances_makes_a_service_faster() -> None:
    assert instances_needed(service_times({1: [0.040]}, 1), 100, 0.030) is None
    # Of twenty times the slowest is the p95 as often as not: it is not told as one between the two slowest.
    assert service_times({1: [0.010] * 19 + [0.040]}, 1).alone_p95_s == 0.040
    exactly = instances_needed(service_times({1: [0.007]}, 1), 0.1, 0.007)
    assert exactly is not None
    assert exactly[0] == 1, "what takes as long as the bound keeps it"
