"""Start a worker process with one case, and send it commands."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.contenders.exported import TIMEOUT_S as EXPORT_TIMEOUT_S
from benchmarks.contenders.protocol import Setup
from benchmarks.results.schema import Stage
from runtime.array_types import Array
from runtime.artifact.json_schema import decode
from runtime.machine.child_process import JsonWorker

# of OpenMP, and of the thread pool of `tokenizers`:
# https://docs.rs/rayon/latest/rayon/struct.ThreadPoolBuilder.html#method.num_threads
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")
_TIMEOUT_S = EXPORT_TIMEOUT_S + 100  # for one answer. The first may need an export, which has its own time limit.


@dataclass(frozen=True, kw_only=True)
class Task:
    """Case that a worker process measures."""

    setup: Setup
    threads: int  # threads that the worker may use.
    stage: Stage  # `graph` embeds arrays, `end_to_end` embeds items.
    items: int  # items per call.
    feeds: str = ""  # file with the arrays of a call; only for `graph`.
    # items of each call of a turn: texts, or paths of files; only for `end_to_end`.
    calls: tuple[tuple[str, ...], ...] = ()
    parity_feeds: str = ""  # file with the batches for parity; only for `graph`.
    parity_items: tuple[str, ...] = ()  # items for parity; only for `end_to_end`.
    vectors: str = ""  # output file for the vectors of the parity items: `[items, output_dim]`, .npy.


def read_task(path: Path) -> Task:
    """Return the task that :class:`Worker` wrote to ``path``."""
    return decode(Task, json.loads(path.read_text("utf-8")), "task")


class Worker:
    """Worker process with one case loaded."""

    def __init__(self, task: Task, path: Path) -> None:
        """Write ``task`` to ``path`` and start the process."""
        self._vectors = task.vectors
        path.write_text(json.dumps(dataclasses.asdict(task)), "utf-8")
        self._started = time.perf_counter()
        self._process = JsonWorker(
            [task.setup.python, "-m", "benchmarks.measure.worker", str(path)],
            environment={name: str(task.threads) for name in _THREAD_VARIABLES},
            log=path.with_suffix(".log"),
            timeout_s=_TIMEOUT_S,
        )

    def load(self) -> tuple[float, float]:
        """Return the seconds until the model was loaded, and the seconds of its first call.

        Raises:
            EmbeddingBackbonesError: The model cannot be loaded or cannot embed, or the process died. The other methods
                raise it too.
        """
        self._process.receive()
        start_s = time.perf_counter() - self._started
        return start_s, float(self._process.receive()["first_s"])

    def take_turn(self) -> tuple[tuple[float, ...], int]:
        """Return the seconds of each call of a turn, and the peak resident memory in bytes."""
        answer = self._process.ask("turn")
        return tuple(round(second, 7) for second in answer["seconds"]), answer["peak_bytes"]

    def time_steps(self) -> dict[str, float]:
        """Return the mean seconds of each step of a call; empty if the steps cannot be timed."""
        steps: dict[str, float] = self._process.ask("steps")["steps"]
        return steps

    def embed_parity_items(self) -> Array:
        """Return the vectors of the parity items, ``[items, output_dim]``."""
        self._process.ask("embed")
        return np.asarray(np.load(self._vectors))

    def close(self) -> None:
        """End the process, and those that it started, such as an export."""
        self._process.close()
