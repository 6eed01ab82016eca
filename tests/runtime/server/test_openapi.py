"""Requests that schemathesis makes from the description: the server answers as described, and never with 500."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from runtime.server.openapi import describe_api
from tests.runtime.server.conftest import Running

pytestmark = pytest.mark.slow  # half a minute, most of it for making requests
SCHEMA = schemathesis.openapi.from_dict(describe_api())
BOUNDED = settings(
    max_examples=5,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@SCHEMA.parametrize()
@BOUNDED
def test_the_server_answers_as_described(case: Any, server: Running) -> None:
    # A description cannot say which models, prompts and images there are, so valid data may be refused.
    case.call_and_validate(base_url=server.url, excluded_checks=[positive_data_acceptance])
