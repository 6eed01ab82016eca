"""Candidates of a tuning. Each has one tower loaded in its own process, and is measured in turns."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from runtime.artifact.manifest import TowerName
from runtime.artifact.variants import VariantName
from runtime.loading.tuning_store import format_threads, total_threads
from runtime.machine.child_process import JsonWorker


@dataclass(frozen=True, kw_only=True)
class TuneSetting:
    """One way to load a tower."""

    provider: str
    variant: VariantName
    threads: int  # of one batch on the provider ``cpu``; elsewhere of all batches, which share them
    concurrent_batches: int = 1  # as many as the threads allow on the provider ``cpu``; elsewhere the default

    def __str__(self) -> str:
        threads = format_threads(self.provider, self.threads, self.concurrent_batches)
        return f"{self.provider}, {self.variant}, {threads}"

    @property
    def total_threads(self) -> int:
        """The threads of all batches."""
        return total_threads(self.provider, self.threads, self.concurrent_batches)


class TuneCandidate(JsonWorker):
    """A tower that a process of its own loads in one way, and that is measured in turns."""

    def __init__(self, folder: Path, tower: TowerName, setting: TuneSetting) -> None:
        """Start to load a tower."""
        numbers = [str(setting.threads), str(setting.concurrent_batches)]
        words = [str(folder.absolute()), tower, setting.provider, setting.variant, *numbers]
        super().__init__([sys.executable, "-m", "runtime.tune.worker", *words])

    def load(self) -> float:
        """Wait until the tower is loaded. Return the smallest cosine similarity of its vectors to the golden ones.

        Raises:
            EmbeddingBackbonesError: The tower cannot be loaded.
        """
        return float(self.receive()["min_cosine"])

    def take_turn(self, batch_size: int) -> list[float]:
        """Return the seconds of some calls of ``embed`` with ``batch_size`` items in each batch.

        Raises:
            EmbeddingBackbonesError: A batch cannot be embedded.
        """
        return [float(second) for second in self.ask(str(batch_size))["seconds"]]
