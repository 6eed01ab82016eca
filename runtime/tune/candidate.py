"""Candidates of a tuning. Each has one tower loaded in its own process, and is measured in turns."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from runtime.artifact.manifest import TowerName
from runtime.loading.tuning_store import TuneSetting
from runtime.machine.child_process import JsonWorker


class TuneCandidate(JsonWorker):
    """A tower that a process of its own loads in one way, and that is measured in turns."""

    def __init__(self, folder: Path, tower: TowerName, setting: TuneSetting) -> None:
        """Start to load a tower."""
        words = [str(folder.absolute()), tower, json.dumps(asdict(setting))]
        super().__init__([sys.executable, "-m", "runtime.tune.worker", *words])

    def load(self) -> tuple[float, float]:
        """Wait until the tower is loaded.

        Returns:
            The smallest cosine similarity of its vectors to the golden ones, and the floor of what runs.

        Raises:
            EmbeddingBackbonesError: The tower cannot be loaded.
        """
        answer = self.receive()
        return float(answer["min_cosine"]), float(answer["floor"])

    def take_turn(self, batch_size: int) -> list[float]:
        """Return the seconds of some calls of ``embed``; see :func:`runtime.tune.worker.take_turn`.

        Raises:
            EmbeddingBackbonesError: A batch cannot be embedded.
        """
        return [float(second) for second in self.ask(str(batch_size))["seconds"]]
