"""Test that work in another thread gives its results and its errors."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from runtime.background import iterate_in_background, start_in_background


def test_results_come_in_order_and_an_error_in_its_place() -> None:
    def make() -> Iterator[int]:
        yield from range(3)
        raise ValueError("the fourth")

    results = iterate_in_background(make())
    assert list(itertools.islice(results, 3)) == [0, 1, 2]
    with pytest.raises(ValueError, match="the fourth"):
        next(results)
    assert list(results) == []


def test_work_starts_at_once_in_another_thread() -> None:
    started = threading.Event()

    def work() -> int:
        started.set()
        return threading.get_ident()

    wait = start_in_background(work)
    assert started.wait(20)
    assert wait() != threading.get_ident()
