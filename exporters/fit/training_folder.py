"""The folder of a training beside its artifact: an interrupted training goes on there, and none is lost silently."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from exporters.artifact_writer import writing
from exporters.errors import DestinationError
from runtime.file_lock import locked

PACKAGES = "packages"  # key of a request that may differ: it only explains other differences
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
        found = (file.parent for file in self.steps.glob(f"checkpoint-*/{_STATE}") if _is_complete(file))
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

    @contextmanager
    def open(self, request: Mapping[str, str], *, resume: bool, force: bool) -> Iterator[None]:
        """Make the folder, or check that the training in it has the same ``request``. Lock it while the block runs.

        The value of :data:`PACKAGES` may differ. An error about another value names both.
        A file system without locks does not keep other processes out.

        Raises:
            DestinationError: Another process trains in the folder, or the folder holds another training. Or the record
                of the training is damaged, or the folder cannot be written.
        """
        file = self.path / _REQUEST
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file.open("a").close()
        with locked(file) as free:
            if free is False:
                raise DestinationError(f"another process trains in {self.path}; wait for it, or give another --name")
            self.check(resume=resume, force=force)  # again: another process may have trained meanwhile
            if resume and self.find_checkpoint():
                self._check_same(request)
            else:
                with writing(self.path):
                    if self.steps.exists():
                        shutil.rmtree(self.steps)
                    file.write_text(json.dumps(request, indent=2), "utf-8")
            yield

    def _check_same(self, request: Mapping[str, str]) -> None:
        file, again = self.path / _REQUEST, "start again with --force instead of --resume"
        try:
            begun = dict(json.loads(file.read_text("utf-8")))
        except (OSError, ValueError, TypeError, RecursionError) as exc:
            raise DestinationError(f"{file}, the record of the training, cannot be read ({exc}); {again}") from exc
        changed = [key for key, value in request.items() if begun.get(key) != value]
        packages = ""
        if PACKAGES in changed:
            changed.remove(PACKAGES)
            packages = (
                f" with the packages that it was begun with ({begun.get(PACKAGES, 'unknown')}; now {request[PACKAGES]})"
            )
        if changed:
            raise DestinationError(
                f"the training in {self.path} has another {', '.join(changed)}; give the same{packages}, or {again}"
            )


def _is_complete(file: Path) -> bool:
    try:
        json.loads(file.read_text("utf-8"))
    except (FileNotFoundError, ValueError):  # cut off, or removed meanwhile by a training that runs
        return False
    return True
