"""A process that embeds when it is told to: one case, loaded alone, that takes turns with others.

``python -m benchmarks.measure.worker TASK.json`` loads what the task names, then answers each line of standard input by a line.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.protocol import Array, Contender
from benchmarks.contenders.registry import load
from benchmarks.measure.worker_client import Task, read_task
from runtime.errors import EmbeddingBackbonesError, one_line

_MOST_CALLS = 25  # of a turn
_LONG_ENOUGH_S = 0.25
_STATUS = Path("/proc/self/status")


def take_turn(calls: Sequence[Callable[[], object]], clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Returns the seconds of some calls, each of ``calls`` as often as every other one.

    One is made before any is timed, for what other processes have driven out of the caches. The calls are repeated
    while a turn is short, at most 25 of them.
    """
    calls[-1]()
    seconds: list[float] = []
    while not seconds or (sum(seconds) < _LONG_ENOUGH_S and len(seconds) + len(calls) <= _MOST_CALLS):
        for call in calls:
            started = clock()
            call()
            seconds.append(clock() - started)
    return seconds


def peak_bytes(status: Path = _STATUS) -> int:
    """Returns the largest resident memory of this process.

    That of ``getrusage`` counts what the parent held when it started this process, so Linux's own figure is taken.
    """
    try:
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return int(line.split()[1]) * 1024


class _Work:
    """What a task has a contender do."""

    def __init__(self, task: Task, contender: Contender) -> None:
        self._task, self._contender = task, contender

    def calls(self) -> list[Callable[[], object]]:
        """Returns the calls of one turn, whose arguments are there already."""
        if self._task.stage == "graph":
            arrays = read_arrays(Path(self._task.feeds))[0]
            return [lambda: self._contender.embed_arrays(arrays)]
        return [lambda items=items: self._contender.embed_items(items) for items in self._task.calls]  # type: ignore[misc]

    def embed_parity_items(self) -> Array:
        """Returns the vectors of the items by which parity is judged, in calls of as many as the task has."""
        if self._task.stage == "graph":
            batches = [self._contender.embed_arrays(arrays) for arrays in read_arrays(Path(self._task.parity_feeds))]
        else:
            items, size = self._task.parity_items, self._task.items
            starts = range(0, len(items), size)
            batches = [np.asarray(self._contender.embed_items(items[start : start + size])) for start in starts]
        return np.concatenate(batches)

    def take_apart(self) -> dict[str, float]:
        """Returns the median seconds of each step of a call, over all calls of a turn."""
        if self._task.stage == "graph":
            return {}
        taken = [self._contender.take_apart(items) for items in (*self._task.calls, *self._task.calls)]
        return {step: float(np.mean([each[step] for each in taken[1:]])) for step in taken[0]}


def read_arrays(path: Path) -> list[dict[str, Array]]:
    """Returns the batches of a file that :func:`write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as file:
        names = list(takewhile(lambda number: any(name.startswith(f"{number}/") for name in file.files), count()))
        return [
            {name.partition("/")[2]: file[name] for name in file.files if name.startswith(f"{number}/")}
            for number in names
        ]


def write_arrays(path: Path, batches: Sequence[dict[str, Array]]) -> None:
    """Writes batches of a graph's inputs, by name."""
    named = {f"{number}/{name}": array for number, arrays in enumerate(batches) for name, array in arrays.items()}
    np.savez(path, allow_pickle=False, **named)


def main(arguments: Sequence[str]) -> None:
    """Serves the task of the file that the command line names, until standard input ends."""
    task = read_task(Path(arguments[0]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to standard error
    for answer in _serve(task, Path(arguments[0]).parent):
        try:
            print(json.dumps(answer), file=answers, flush=True)
        except BrokenPipeError:
            os._exit(1)  # at an ordinary exit Python would complain of what it cannot flush


def _serve(task: Task, scratch: Path) -> Iterator[dict[str, Any]]:
    try:
        work = _Work(task, load(task.way, task.threads, scratch))
        yield {}
        calls = work.calls()
        started = time.perf_counter()
        calls[0]()
        yield {"first_s": time.perf_counter() - started}
        for line in sys.stdin:
            yield _do(line.strip(), task, work, calls)
    except EmbeddingBackbonesError as exc:
        yield {"error": str(exc)}
    except Exception as exc:  # noqa: BLE001  other people's libraries raise what they like, and cost only their own case
        yield {"error": f"{type(exc).__name__}: {one_line(exc)}"}


def _do(command: str, task: Task, work: _Work, calls: Sequence[Callable[[], object]]) -> dict[str, Any]:
    if command == "turn":
        return {"seconds": take_turn(calls), "peak_bytes": peak_bytes()}
    if command == "embed":
        np.save(task.vectors, work.embed_parity_items())
        return {}
    return {"stages": work.take_apart()}


if __name__ == "__main__":
    main(sys.argv[1:])
