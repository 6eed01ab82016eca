"""Measure one case in its own process, on command.

``python -m benchmarks.measure.worker TASK.json`` loads the task and answers each line of standard input with a line of
JSON. :class:`benchmarks.measure.worker_client.Worker` is the other side.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.protocol import Contender
from benchmarks.contenders.registry import load
from benchmarks.measure.arrays_file import read_arrays
from benchmarks.measure.worker_client import Task, read_task
from runtime.array_types import Array
from runtime.errors import EmbeddingBackbonesError, one_line
from runtime.machine.child_process import questions, serve
from runtime.machine.limits import read_peak_bytes

_MAX_CALLS = 25  # per turn
_LONG_ENOUGH_S = 0.25


def take_turn(calls: Sequence[Callable[[], object]], clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Return the seconds of each call of a turn. All ``calls`` are made equally often.

    The first call is not timed: it refills the caches after other processes ran. A short turn repeats the calls, up to
    25 calls in all.
    """
    calls[-1]()
    seconds: list[float] = []
    while not seconds or (sum(seconds) < _LONG_ENOUGH_S and len(seconds) + len(calls) <= _MAX_CALLS):
        for call in calls:
            started = clock()
            call()
            seconds.append(clock() - started)
    return seconds


class _LoadedCase:
    """Task with its contender loaded."""

    def __init__(self, task: Task, contender: Contender) -> None:
        self._task, self._contender = task, contender

    def calls(self) -> list[Callable[[], object]]:
        """Return the calls of one turn. Their arguments are loaded already."""
        if self._task.stage == "graph":
            arrays = read_arrays(Path(self._task.feeds))[0]
            return [lambda: self._contender.embed_arrays(arrays)]
        return [lambda items=items: self._contender.embed_items(items) for items in self._task.calls]  # type: ignore[misc]

    def embed_parity_items(self) -> Array:
        """Return the vectors of the parity items, embedded in calls of the task's size."""
        if self._task.stage == "graph":
            batches = [self._contender.embed_arrays(arrays) for arrays in read_arrays(Path(self._task.parity_feeds))]
        else:
            items, size = self._task.parity_items, self._task.items
            starts = range(0, len(items), size)
            batches = [np.asarray(self._contender.embed_items(items[start : start + size])) for start in starts]
        return np.concatenate(batches)

    def time_steps(self) -> dict[str, float]:
        """Return the mean seconds of each step, over all calls of two turns but the first call."""
        if self._task.stage == "graph":
            return {}
        taken = [self._contender.time_steps(items) for items in (*self._task.calls, *self._task.calls)]
        return {step: float(np.mean([each[step] for each in taken[1:]])) for step in taken[0]}


def main(arguments: Sequence[str]) -> None:
    """Serve the task in the file that the command line names, until standard input ends."""
    path = Path(arguments[0])
    serve(_answers(read_task(path), path.parent))


def _answers(task: Task, scratch: Path) -> Iterator[dict[str, Any]]:
    try:
        case = _LoadedCase(task, load(task.setup, task.threads, scratch))
        yield {}
        calls = case.calls()
        started = time.perf_counter()
        calls[0]()
        yield {"first_s": time.perf_counter() - started}
        for command in questions():
            yield _answer(command, task, case, calls)
    except EmbeddingBackbonesError as exc:
        yield {"error": str(exc)}
    except Exception as exc:  # noqa: BLE001  other libraries raise their own errors, and may cost only their own case
        yield {"error": f"{type(exc).__name__}: {one_line(exc)}"}


def _answer(command: str, task: Task, case: _LoadedCase, calls: Sequence[Callable[[], object]]) -> dict[str, Any]:
    if command == "turn":
        return {"seconds": take_turn(calls), "peak_bytes": read_peak_bytes()}
    if command == "embed":
        np.save(task.vectors, case.embed_parity_items())
        return {}
    return {"steps": case.time_steps()}


if __name__ == "__main__":
    main(sys.argv[1:])
