"""Candidates of a tuning. Each has one tower loaded in its own process, and is measured in turns."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runtime.artifact.manifest import TowerName
from runtime.artifact.variants import VariantName
from runtime.machine.child_process import JsonWorker


@dataclass(frozen=True, kw_only=True)
class TuneSetting:
    """One way to load a tower.

    Attributes:
        provider: The execution provider.
        variant: The graph.
        threads: Threads of one run.
    """

    provider: str
    variant: VariantName
    threads: int

    def __str__(self) -> str:
        return f"{self.provider}, {self.variant}, {self.threads} thread{'s' * (self.threads > 1)}"


class TuneCandidate(Protocol):
    """A tower that is loaded in one way and measured in turns."""

    def load(self) -> float:
        """Wait until the tower is loaded. Return the smallest cosine similarity of its golden vectors to torch's.

        Raises:
            EmbeddingBackbonesError: The tower cannot be loaded.
        """

    def take_turn(self, batch_size: int) -> list[float]:
        """Return the seconds of some calls of ``embed`` with ``batch_size`` items each.

        Raises:
            EmbeddingBackbonesError: A batch cannot be embedded.
        """

    def close(self) -> None:
        """Release the tower."""


class ProcessCandidate:
    """A candidate in its own process.

    Attributes:
        worker: The process.
    """

    def __init__(self, folder: Path, tower: TowerName, setting: TuneSetting) -> None:
        """Start to load a tower."""
        words = [str(folder.absolute()), tower, setting.provider, setting.variant, str(setting.threads)]
        self.worker = JsonWorker([sys.executable, "-m", "runtime.tune.worker", *words])

    def load(self) -> float:
        """See :class:`TuneCandidate`."""
        return float(self.worker.receive()["min_cosine"])

    def take_turn(self, batch_size: int) -> list[float]:
        """See :class:`TuneCandidate`."""
        return [float(second) for second in self.worker.ask(str(batch_size))["seconds"]]

    def close(self) -> None:
        """End the process."""
        self.worker.close()
