"""The runs of all callers together are bounded."""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue

import pytest

from runtime.session.run_turns import RunTurns


def test_a_run_waits_for_a_turn_that_nobody_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, taken = RunTurns(2), SimpleQueue[bool]()
    held = [turns.take(), turns.take()]
    waiting = threading.Thread(target=lambda: taken.put(bool(turns.take())))
    waiting.start()
    assert taken.empty()
    held.pop()
    waiting.join(20)
    assert taken.get_nowait()
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as in a forked process
    assert turns.take() is not turns.take()
