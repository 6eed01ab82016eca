"""A worker times calls, and its death is explained. Nothing here is timed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.measure.worker import take_turn
from benchmarks.measure.worker_client import Task, Worker
from runtime.errors import EmbeddingBackbonesError
from tests.benchmarks.measure.toys import SETUP


def test_a_turn_repeats_short_calls_only() -> None:
    made: list[str] = []
    clock = itertools.count(0.0, 0.1)
    seconds = take_turn([lambda: made.append("a"), lambda: made.append("b")], clock=lambda: next(clock))
    assert made == ["b", "a", "b", "a", "b"]
    assert seconds == pytest.approx([0.1] * 4)
    slow = itertools.count(0.0, 5.0)
    assert len(take_turn([lambda: None], clock=lambda: next(slow))) == 1
    quick = itertools.count(0.0, 1e-6)
    assert len(take_turn([lambda: None] * 2, clock=lambda: next(quick))) == 24


@pytest.mark.process
def test_a_process_that_dies_is_reported_with_its_last_line(tmp_path: Path) -> None:
    dying = tmp_path / "python"
    dying.write_text(
        '#!/bin/sh\necho "the last word, with $OMP_NUM_THREADS and $RAYON_NUM_THREADS threads" >&2; exit 7\n'
    )
    dying.chmod(0o755)
    task = Task(setup=replace(SETUP, python=str(dying)), threads=3, stage="graph", items=1)
    worker = Worker(task, tmp_path / "task.json")
    with pytest.raises(EmbeddingBackbonesError, match=r"exit code 7.*the last word, with 3 and 3 threads"):
        worker.load()
    worker.close()
