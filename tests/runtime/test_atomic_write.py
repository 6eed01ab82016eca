"""A file or a folder is written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from runtime.atomic_write import finish_replacement, partial_path, replace_folder, replacing, write_text
from runtime.errors import OutputError
from runtime.file_lock import locked


def test_the_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with replacing(path) as partial:
        partial.write_text("new")
        assert not path.exists()
        assert partial.parent == path.parent, "a rename is atomic only within a file system"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def fail_to_replace(path: Path, error: type[BaseException]) -> None:
    with replacing(path) as partial:
        partial.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_file_and_leaves_no_partial_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "report.json"
    write_text(path, "old")
    with pytest.raises(error):
        fail_to_replace(path, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "report.json"):
        pass


def test_text_is_written_as_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "naïve 日本")
    assert (tmp_path / "text").read_bytes().decode("utf-8") == "naïve 日本"


@pytest.mark.parametrize("place", ["missing/report.json", "file/report.json"])
def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match=rf"cannot write .*{place} \(No.*\); free some disk space or fix"):
        write_text(tmp_path / place, "text")


def test_a_full_disk_is_reported(tmp_path: Path, small_disk: Callable[[], AbstractContextManager[None]]) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*report\.json \(File too large\)"), small_disk():
        write_text(tmp_path / "report.json", "x" * 5000)
    assert not list(tmp_path.iterdir())


def test_two_that_write_at_once_do_not_mix(tmp_path: Path) -> None:
    """In containers, processes that share a folder may have the same id."""
    path = tmp_path / "report.json"
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def killed(place: Path, moves: int) -> Path:
    """Make the state after ``moves`` of the two moves to ``place``, and return the path of the new folder."""
    partial = partial_path(place)
    for folder, content in ((place, "old"), (partial, "new")):
        folder.mkdir()
        (folder / content).touch()
    place.rename(partial.with_suffix(".old"))
    if moves == 2:
        partial.rename(place)
    return partial


@pytest.mark.parametrize("moves", [1, 2])
def test_a_replacement_that_was_killed_is_finished(tmp_path: Path, moves: int) -> None:
    place = tmp_path / "folder[1]"
    killed(place, moves)
    finish_replacement(place)
    assert list(tmp_path.rglob("*")) == [place, place / "new"]


@pytest.mark.skipif(os.name == "nt", reason="Windows opens no folders")
def test_a_replacement_that_runs_is_left_alone(tmp_path: Path) -> None:
    partial = killed(tmp_path / "folder", 1)
    with locked(partial):
        finish_replacement(tmp_path / "folder")
        assert sorted(tmp_path.iterdir()) == [partial.with_suffix(".old"), partial]


@pytest.mark.skipif(os.name == "nt", reason="Windows opens no folders")
def test_a_replacement_holds_its_lock_between_the_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, rename = tmp_path / "folder", Path.rename
    partial = partial_path(place)
    for folder in (place, partial):
        folder.mkdir()

    def rename_beside_another_process(path: Path, target: Path) -> Path:
        finish_replacement(place)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_beside_another_process)
    replace_folder(partial, place)
    assert list(tmp_path.iterdir()) == [place]
