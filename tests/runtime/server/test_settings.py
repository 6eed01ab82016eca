"""Settings that would break the server, or do nothing, are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from runtime.errors import UsageError
from runtime.server.settings import ServerSettings

TIMES = ("client_seconds", "drain_seconds", "hang_seconds", "max_wait_ms")


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, 1e12])
def test_a_time_that_nobody_can_wait_is_refused(name: str, value: float) -> None:
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(UsageError, match=f"{name} is {value}, it must be a number from 0 to "):
        ServerSettings(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"client_seconds": 0}, "client_seconds is 0, which cuts off every client"),
        ({"max_items": True}, "max_items is True, it must be a whole number from 1 up"),
        ({"port": "80"}, "port is '80', it must be a whole number from 0 to 65535"),
        ({"hang_seconds": 4.5}, "hang_seconds is 4.5, it must be at least 5"),
    ],
)
def test_a_value_out_of_range_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ServerSettings(**wrong)


def test_short_times_are_taken() -> None:
    settings = ServerSettings(client_seconds=0.1, drain_seconds=0, hang_seconds=5, max_wait_ms=0.5)
    assert [getattr(settings, name) for name in TIMES] == [0.1, 0, 5, 0.5]


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "a.example",
        "https://a.example/",
        "https://a.example/page",
        "https://A.example",
        "https://a.example:443",
        "http://a.example:80",
        "https://*.example",
        "https://user@a.example",
        "https://a.example ",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(UsageError, match="which no browser sends; give"):
        ServerSettings(cors_origins=("https://b.example", origin))


def test_origins_of_browsers_are_taken() -> None:
    origins = ("*", "https://a.example", "http://localhost:3000", "http://[::1]:8000", "https://a.example:80")
    assert ServerSettings(cors_origins=(*origins, "chrome-extension://abcdef")).cors_origins[:5] == origins
