"""A file is written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from runtime.atomic_write import replacing, write_text
from runtime.errors import OutputError


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
