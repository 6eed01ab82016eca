"""The folder of a training beside its artifact: an interrupted training goes on there, and none is lost silently."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exporters.artifact_writer import writing
from exporters.errors import DestinationError

_REQUEST = "request.json"
_STATE = "trainer_state.json"  # the last file of a checkpoint that the trainer writes


@dataclass(frozen=True)
class TrainingFolder:
    """A folder with the checkpoints of a training, with the trained model ``name``, and with the report."""

    path: Path
    name: str

    @property
    def steps(self) -> Path:
        """The folder from which an interrupted training goes on."""
        return self.path / "steps"

    @property
    def checkpoint(self) -> Path:
        """The trained model, to whose name a learner may add a suffix."""
        return self.path / self.name

    def find_checkpoint(self) -> Path | None:
        """Return the last complete checkpoint. A process that was killed may have left an incomplete one."""
        found = (file.parent for file in self.steps.glob(f"checkpoint-*/{_STATE}"))
        return max(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)

    def check(self, *, resume: bool, force: bool) -> None:
        """Check that no earlier training would be lost.

        Raises:
            DestinationError: There is one, which is neither resumed nor to be replaced.
        """
        if force:
            return
        if self.find_checkpoint():
            if resume:
                return
            raise DestinationError(
                f"{self.path} holds a training that was interrupted, or not exported; go on with --resume, or replace "
                "it with --force"
            )
        for kept in (self.checkpoint, self.checkpoint.with_name(f"{self.name}.safetensors")):
            if kept.exists():
                raise DestinationError(
                    f"{kept} is the checkpoint of an earlier training; replace it with --force, or give another --name"
                )

    def open(self, request: Mapping[str, str], *, resume: bool) -> None:
        """Make the folder, or check that the training in it has the same ``request``.

        Raises:
            DestinationError: It is another training, or its record is damaged.
        """
        if resume and self.find_checkpoint():
            self._check_same(request)
            return
        with writing(self.path):
            if self.steps.exists():
                shutil.rmtree(self.steps)
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / _REQUEST).write_text(json.dumps(request, indent=2), "utf-8")

    def _check_same(self, request: Mapping[str, str]) -> None:
        file, again = self.path / _REQUEST, "start again with --force instead of --resume"
        try:
            begun = dict(json.loads(file.read_text("utf-8")))
        except (OSError, ValueError, TypeError, RecursionError) as exc:
            raise DestinationError(f"{file}, the record of the training, cannot be read ({exc}); {again}") from exc
        changed = [key for key, value in request.items() if begun.get(key) != value]
        if changed:
            raise DestinationError(
                f"the training in {self.path} has another {', '.join(changed)}; give the same, or {again}"
            )
