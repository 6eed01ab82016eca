"""The other end of a worker: a process that holds one loaded graph, and takes its turns."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runtime.artifact.manifest import TowerName
from runtime.artifact.variants import VariantName
from runtime.errors import EmbeddingBackbonesError, InferenceError

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way of loading a tower.

    Attributes:
        provider: Execution provider.
        variant: The graph.
        threads: Threads of one run.
    """

    provider: str
    variant: VariantName
    threads: int

    def __str__(self) -> str:
        return f"{self.provider}, {self.variant}, {self.threads} thread{'s' * (self.threads > 1)}"


class Contestant(Protocol):
    """A tower, loaded in one way, that takes turns."""

    def load(self) -> float:
        """Returns the smallest cosine similarity of its golden vectors to torch's, when it is loaded.

        Raises:
            EmbeddingBackbonesError: It cannot be loaded.
        """

    def take_turn(self, batch_size: int) -> list[float]:
        """Returns the seconds of some calls with ``batch_size`` items each.

        Raises:
            EmbeddingBackbonesError: A batch cannot be embedded.
        """

    def close(self) -> None:
        """Ends it."""


class ProcessContestant:
    """A contestant in a process of its own."""

    def __init__(self, folder: Path, tower: TowerName, setting: Setting) -> None:
        """Starts it."""
        words = [str(folder.absolute()), tower, setting.provider, setting.variant, str(setting.threads)]
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "runtime.tune.worker", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
            process_group=0,  # a terminal's Ctrl-C is for the parent alone, which ends its workers without their noise
        )

    def load(self) -> float:
        """See :class:`Contestant`."""
        return float(self._receive()["min_cosine"])

    def take_turn(self, batch_size: int) -> list[float]:
        """See :class:`Contestant`."""
        if self._process.stdin is None:
            raise self._death()
        try:
            print(batch_size, file=self._process.stdin, flush=True)
        except OSError as exc:
            raise self._death() from exc
        return [float(second) for second in self._receive()["seconds"]]

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        with contextlib.suppress(OSError):  # what it was still to be told
            self._process.communicate()

    def _receive(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EmbeddingBackbonesError(answer["error"])
        return answer

    def _death(self) -> InferenceError:
        code = self._process.wait()
        return InferenceError(f"its process has died (exit code {code}), for want of memory, say")
