"""What a worker is told, and the parent's end of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders.protocol import Way
from benchmarks.results.schema import Stage
from runtime.artifact.json_schema import decode
from runtime.errors import EmbeddingBackbonesError

_ROOT = Path(__file__).parents[2]
_PATIENCE_S = 900.0  # for one answer: torch.compile and large exports take minutes, a hang for ever


@dataclass(frozen=True, kw_only=True)
class Task:
    """One case, as its process is told of it.

    Attributes:
        way: Who embeds, and how.
        threads: Threads that it may use.
        stage: Whether it is given arrays or items.
        items: Items of a call.
        feeds: File of the arrays of a call; empty at the other stage.
        calls: Items of each call of a turn: texts, or paths of files; empty at the other stage.
        parity_feeds: File of the batches by which parity is judged; empty at the other stage.
        parity_items: Items by which it is judged; empty at the other stage.
        vectors: Where the vectors of those go, ``[items, output_dim]`` in a .npy file.
    """

    way: Way
    threads: int
    stage: Stage
    items: int
    feeds: str
    calls: tuple[tuple[str, ...], ...]
    parity_feeds: str
    parity_items: tuple[str, ...]
    vectors: str


def read_task(path: Path) -> Task:
    """Returns the task of a file that :class:`Worker` wrote."""
    return decode(Task, json.loads(path.read_text("utf-8")), "task")


class Worker:
    """A process with one case loaded in it."""

    def __init__(self, task: Task, place: Path) -> None:
        """Starts it; ``place`` is where its task is written."""
        self.task = task
        place.write_text(json.dumps(dataclasses.asdict(task)), "utf-8")
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        self._log = place.with_suffix(".log")
        self._started = time.perf_counter()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [task.way.python, "-m", "benchmarks.measure.worker", str(place)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(task.threads)},
                process_group=0,  # a terminal's Ctrl-C is for the parent, which ends its workers without their noise
            )

    def load(self) -> tuple[float, float]:
        """Returns the seconds until the model was loaded, and those of its first call.

        Raises:
            EmbeddingBackbonesError: It cannot be loaded, or cannot embed.
        """
        self._receive()
        start_s = time.perf_counter() - self._started
        return start_s, float(self._receive()["first_s"])

    def ask(self, command: str) -> dict[str, Any]:
        """Returns its answer to ``turn``, ``embed`` or ``take apart``.

        Raises:
            EmbeddingBackbonesError: It failed, or has died.
        """
        try:
            print(command, file=self._process.stdin, flush=True)
        except OSError as exc:
            raise self._death() from exc
        return self._receive()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        with contextlib.suppress(OSError, ValueError):
            self._process.communicate()

    def _receive(self) -> dict[str, Any]:
        line = self._read_line()
        if not line:
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EmbeddingBackbonesError(answer["error"])
        return answer

    def _read_line(self) -> str:
        patience = threading.Timer(_PATIENCE_S, self._process.kill)
        patience.start()
        try:
            return self._process.stdout.readline() if self._process.stdout else ""
        finally:
            patience.cancel()

    def _death(self) -> EmbeddingBackbonesError:
        code = self._process.wait()
        said = self._log.read_text(errors="replace").strip().splitlines()
        reason = f": {said[-1]}" if said else ", for want of memory, say"
        return EmbeddingBackbonesError(f"its process has died (exit code {code}){reason}")
