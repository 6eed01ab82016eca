"""Ray reserves for a replica what its session needs."""

from __future__ import annotations

from typing import Any

import pytest

import runtime
from runtime.errors import UsageError
from runtime.server.ray_serve import replica_resources


@pytest.mark.parametrize(
    ("gpus", "session", "reserved"),
    [
        (None, {}, {}),
        (None, {"provider": "cpu"}, {}),
        (None, {"provider": "cuda"}, {"num_gpus": 1}),
        (None, {"provider": "tensorrt"}, {"num_gpus": 1}),
        (None, {"provider_options": runtime.CudaOptions()}, {"num_gpus": 1}),
        ("1", {}, {"num_gpus": 1}),
        (0.5, {"provider": "cuda"}, {"num_gpus": 0.5}),
        (0, {"provider": "cuda"}, {}),
    ],
)
def test_a_replica_gets_the_gpus_of_its_provider(
    gpus: object, session: dict[str, Any], reserved: dict[str, float]
) -> None:
    assert replica_resources(2, 0, gpus, session) == {"num_cpus": 2} | reserved


def test_memory_is_reserved_in_bytes() -> None:
    assert replica_resources(1, 2**30, None, {}) == {"num_cpus": 1, "memory": 2**30}


@pytest.mark.parametrize("gpus", ["all", -1, "nan", "inf"])
def test_gpus_that_are_no_number_are_refused(gpus: object) -> None:
    with pytest.raises(UsageError, match=f"gpus is {gpus!r}, it must be a number from 0 up"):
        replica_resources(1, 0, gpus, {})
    with pytest.raises(UsageError, match="there is no provider 'gpu'"):
        replica_resources(1, 0, None, {"provider": "gpu"})
