"""An earlier training is resumed or replaced by the user's word alone."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from exporters.errors import DestinationError
from exporters.fit.training_folder import PACKAGES, TrainingFolder
from tests.exporters.fit.toy_data import write_checkpoint


def test_an_empty_folder_needs_no_word(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path, "mine")
    folder.steps.mkdir()  # a training that failed before its first checkpoint
    folder.check(resume=False, force=False)


def test_checkpoints_are_resumed_or_replaced(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path, "mine")
    write_checkpoint(folder.path, 3)
    with pytest.raises(DestinationError, match="go on with --resume, or replace it with --force"):
        folder.check(resume=False, force=False)
    folder.check(resume=True, force=False)
    folder.check(resume=False, force=True)
    with folder.open({"seed": "0"}, resume=False, force=True):
        assert not folder.steps.exists()


def test_one_process_trains_in_a_folder(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path, "mine")
    with (
        folder.open({"seed": "0"}, resume=False, force=False),
        pytest.raises(DestinationError, match=r"another process trains in .*; wait for it, or give another --name"),
        folder.open({"seed": "1"}, resume=False, force=True),
    ):
        pass
    write_checkpoint(tmp_path, 3)
    with folder.open({"seed": "0"}, resume=True, force=False):
        pass  # the lock is gone, and the record is that of the first process
    with (
        pytest.raises(DestinationError, match="interrupted, or not exported"),
        folder.open({"seed": "1"}, resume=False, force=False),
    ):
        pass


def test_a_file_system_without_locks_stops_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("runtime.file_lock.lock_file", refuse)
    with TrainingFolder(tmp_path, "mine").open({}, resume=False, force=False):
        pass


def test_a_checkpoint_whose_writing_was_killed_is_no_checkpoint(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path, "mine")
    (folder.steps / "checkpoint-10").mkdir(parents=True)
    (folder.steps / "checkpoint-10/model.safetensors").touch()
    folder.check(resume=False, force=False)
    for number in (3, 9):
        write_checkpoint(tmp_path, number)
    (folder.steps / "checkpoint-10/trainer_state.json").write_text('{"epoch": 1')
    assert folder.find_checkpoint() == folder.steps / "checkpoint-9"


@pytest.mark.parametrize("name", ["mine", "mine.safetensors"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_trained_model_is_replaced_by_force_alone(name: str, resume: bool, tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path, "mine")
    (tmp_path / name).touch()
    with pytest.raises(DestinationError, match=f"{name} is the checkpoint of an earlier training; replace it with"):
        folder.check(resume=resume, force=False)
    folder.check(resume=resume, force=True)


@pytest.mark.parametrize("record", [None, "", '{"seed": ', "3", "[" * 100_000])
def test_a_training_whose_record_is_damaged_does_not_go_on(record: str | None, tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path, "mine")
    write_checkpoint(folder.path, 3)
    if record is not None:
        (tmp_path / "request.json").write_text(record)
    with (
        pytest.raises(DestinationError, match=r"record of the training, cannot be read .*; start again with --force"),
        folder.open({"seed": "0"}, resume=True, force=False),
    ):
        pass


def test_only_the_same_training_goes_on(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path, "mine")
    with folder.open({"seed": "0", PACKAGES: "torch 1"}, resume=True, force=False):
        write_checkpoint(folder.path, 3)
    with folder.open({"seed": "0", PACKAGES: "torch 2"}, resume=True, force=False):
        pass
    with (
        pytest.raises(DestinationError, match="has another seed; give the same, or start again with --force instead"),
        folder.open({"seed": "1", PACKAGES: "torch 1"}, resume=True, force=False),
    ):
        pass
    with (
        pytest.raises(DestinationError, match=r"packages that it was begun with \(torch 1; now torch 2\), or start"),
        folder.open({"seed": "1", PACKAGES: "torch 2"}, resume=True, force=False),
    ):
        pass
