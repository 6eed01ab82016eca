from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest


@pytest.fixture
def wait_until_freed() -> Iterator[Callable[[Sequence[weakref.ref[Any]]], None]]:
    """Wait until objects are freed by their reference counts alone, also those of threads that are about to end."""

    def wait(references: Sequence[weakref.ref[Any]]) -> None:
        deadline = time.monotonic() + 20
        while any(reference() is not None for reference in references):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    gc.disable()
    yield wait
    gc.enable()
