from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import OutputError, UsageError
from runtime.jobs.journal import Journal, JournalEntry, finish_move, is_begun, work_folder

DIM = 3


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "v.npy"


@pytest.fixture
def vector_file(output: Path) -> Path:
    return work_folder(output) / "vectors.f32"


@pytest.fixture
def journal_file(output: Path) -> Path:
    return work_folder(output) / "journal.jsonl"


def open_journal(output: Path, *, resume: bool = False, force: bool = False, **fingerprint: Any) -> Journal:
    return Journal(output, fingerprint, dim=DIM, resume=resume, force=force)


def make_entry(stop: int, rows: int) -> JournalEntry:
    return JournalEntry(stop, rows, [(stop - 1, "x", "bad")], None, 0, f"digest {stop}", None)


def rows_of(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.arange(count * DIM, dtype=np.float32).reshape(count, DIM)


@pytest.fixture
def begun(output: Path) -> Path:
    """Return an output with a journal of two entries of three items and two rows each."""
    journal = open_journal(output)
    for stop in (3, 6):
        journal.append(make_entry(stop, stop // 3 * 2), rows_of(4)[-2:] if stop == 6 else rows_of(2))
        journal.commit()
    journal.close()
    return output


def test_what_was_committed_is_there_again(begun: Path) -> None:
    journal = open_journal(begun, resume=True)
    assert (journal.last.stop, journal.last.rows, journal.last.sha256) == (6, 4, "digest 6")
    np.testing.assert_array_equal(journal.vectors.read(0, 4), rows_of(4))
    assert [entry.stop for entry in journal.entries()] == [3, 6]
    assert [tuple(failure) for entry in journal.entries() for failure in entry.failures] == [
        (2, "x", "bad"),
        (5, "x", "bad"),
    ]
    journal.close()


WHOLE = b'{"stop": 9, "rows": 4, "failures": [], "names": null, "truncated": 0, "sha256": "%s", "digests": null}' % (
    b"0" * 99
)


@pytest.mark.parametrize("torn", [WHOLE[:20], WHOLE, b"\0\0\0\n", b'{"stop": 9}\n', b"[]\n", b"7\n", b"x" * 999])
def test_a_torn_line_is_dropped_and_written_over(begun: Path, journal_file: Path, torn: bytes) -> None:
    whole = journal_file.read_bytes()
    journal_file.write_bytes(whole + torn)
    journal = open_journal(begun, resume=True)
    assert journal.last.stop == 6
    journal.append(make_entry(9, 6), rows_of(2))
    journal.close()
    assert journal_file.read_bytes().startswith(whole)
    assert [json.loads(line)["stop"] for line in journal_file.read_bytes().splitlines()[1:]] == [3, 6, 9]


def test_rows_without_a_line_are_dropped(begun: Path, vector_file: Path) -> None:
    with vector_file.open("ab") as file:
        file.write(b"\1" * 31)
    journal = open_journal(begun, resume=True)
    journal.append(make_entry(7, 5), rows_of(1) + 100)
    journal.commit()
    np.testing.assert_array_equal(journal.vectors.read(0, 5), [*rows_of(4), *(rows_of(1) + 100)])
    journal.close()


def test_lines_without_their_rows_are_dropped(begun: Path, vector_file: Path) -> None:
    with vector_file.open("r+b") as file:
        file.truncate(vector_file.stat().st_size - 1)
    journal = open_journal(begun, resume=True)
    assert (journal.last.stop, [entry.stop for entry in journal.entries()]) == (3, [3])
    journal.close()


def test_a_journal_without_a_whole_first_line_is_none(output: Path, journal_file: Path) -> None:
    journal_file.parent.mkdir()
    journal_file.write_bytes(b'{"input')
    assert not is_begun(output)
    journal = open_journal(output, input="a")
    assert json.loads(journal_file.read_bytes()) == {"input": "a"}
    journal.close()


def test_what_is_begun_wants_a_flag(begun: Path) -> None:
    with pytest.raises(OutputError, match="go on with --resume, or start again with --force"):
        open_journal(begun)
    assert is_begun(begun)
    journal = open_journal(begun, force=True)
    assert journal.last.stop == 0
    journal.close()
    assert not work_folder(begun).exists(), "nothing was done, so there is nothing to keep"


def test_another_job_is_not_resumed(output: Path) -> None:
    journal = open_journal(output, normalize=False, input=["a"])
    journal.append(make_entry(3, 2), rows_of(2))
    journal.close()
    with pytest.raises(UsageError, match="its normalize is false, but now it is true"):
        open_journal(output, resume=True, force=True, normalize=True, input=["a"])
    with pytest.raises(UsageError, match=r"its input is \[\"a\"\], but now it is \[\"x+\.\.\.;"):
        open_journal(output, resume=True, normalize=False, input=["x" * 999])
    open_journal(output, resume=True, normalize=False, input=["a"]).close()


@pytest.mark.process
def test_one_output_has_one_writer(begun: Path) -> None:
    first = open_journal(begun, resume=True)
    code = f"""
from pathlib import Path
from runtime.jobs.journal import Journal
Journal(Path({str(begun)!r}), {{}}, dim={DIM}, resume=False, force=True)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "OutputError: another process is writing" in ended.stderr
    first.close()
    open_journal(begun, resume=True).close()


def test_a_lock_on_a_removed_folder_is_none(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may end, and remove its folder, between our opening and our locking."""
    import fcntl

    lock = fcntl.flock

    def lock_late(descriptor: int, flags: int) -> None:
        work_folder(begun).rename(begun.with_name("removed"))
        lock(descriptor, flags)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with pytest.raises(OutputError, match="another process is writing"):
        open_journal(begun, resume=True)


def test_a_full_disk_keeps_what_was_committed(
    output: Path, small_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    journal = open_journal(output)
    with small_disk():
        for count in range(1, 1000):
            journal.append(make_entry(3 * count, 2 * count), rows_of(2))
            if count % 5 == 0:
                journal.commit()
            if journal.last.stop == 15:
                break
        with pytest.raises(
            OutputError, match=r"cannot write .*v\.npy \(.*\); free some disk space, then run .* --resume"
        ):
            journal.append(make_entry(999, 999), rows_of(999))
        journal.close()
    journal = open_journal(output, resume=True)
    assert (journal.last.stop, len(list(journal.entries()))) == (15, 5)
    journal.close()


def test_a_disk_too_full_to_begin_is_left_as_it_was(
    output: Path, small_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    with small_disk(), pytest.raises(OutputError):
        open_journal(output, input="x" * 3000)
    assert not work_folder(output).exists()


def test_a_journal_that_cannot_be_written_does_not_vouch_for_more(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C in the middle of a commit must not make the next one write the same parts again."""
    journal = open_journal(begun, resume=True)

    def interrupt() -> None:
        raise KeyboardInterrupt

    journal.append(make_entry(9, 6), rows_of(2))
    monkeypatch.setattr(journal.vectors, "sync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        journal.commit()
    monkeypatch.undo()
    journal.close()
    journal = open_journal(begun, resume=True)
    assert [entry.stop for entry in journal.entries()] == [3, 6]
    journal.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not remove an open file")
@pytest.mark.parametrize("removed", ["*", "vectors.f32"])
def test_a_removed_work_folder_ends_the_job_at_the_next_commit(begun: Path, removed: str) -> None:
    journal = open_journal(begun, resume=True)
    journal.append(make_entry(9, 6), rows_of(2))
    for path in work_folder(begun).glob(removed):
        path.unlink()
    with pytest.raises(OutputError, match=r"v\.npy\.work were removed meanwhile; run the same command again"):
        journal.commit()
    journal.close()
    journal = open_journal(begun, resume=True)
    assert journal.last.stop == 0
    journal.close()


def refuse(number: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_journal_that_cannot_be_read_is_not_begun_again(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system may fail for a moment. A new journal would drop what is embedded."""
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse(errno.EIO))
        with pytest.raises(OutputError, match=r"cannot read .*journal\.jsonl \(.*\); check the folder .* run the same"):
            open_journal(begun, resume=True)
    journal = open_journal(begun, resume=True)
    assert journal.last.stop == 6
    journal.close()


def test_a_file_system_that_fails_at_a_commit_is_named(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(begun, resume=True)
    journal.append(make_entry(9, 6), rows_of(2))
    with monkeypatch.context() as patch:
        patch.setattr("os.path.samestat", refuse(errno.ESTALE))
        with pytest.raises(OutputError, match=r"cannot write .*v\.npy \(.*\); check .* with --resume"):
            journal.commit()
    journal.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not remove an open file")
def test_a_network_file_system_keeps_an_open_file_and_reports_errors_when_it_is_closed(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(begun, resume=True)
    journal.discard()
    close = os.close

    def close_late(descriptor: int) -> None:
        close(descriptor)
        for path in work_folder(begun).iterdir():
            path.unlink()
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # the open journal keeps the folder
    monkeypatch.setattr(os, "close", close_late)
    journal.close()
    assert not work_folder(begun).exists()


def test_a_folder_that_cannot_be_made_is_no_full_disk(output: Path) -> None:
    work_folder(output).touch()
    with pytest.raises(OutputError, match=rf"; check the folder {re.escape(str(output.parent))}, or name"):
        open_journal(output)


def test_commits_wait_for_their_interval(
    output: Path, vector_file: Path, journal_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("runtime.jobs.journal.COMMIT_INTERVAL_S", 1e9)
    journal = open_journal(output)
    journal.append(make_entry(3, 2), rows_of(2))
    assert journal.last.stop == 0
    monkeypatch.setattr("runtime.jobs.journal.COMMIT_INTERVAL_S", 0.0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    journal.append(make_entry(6, 4), rows_of(2))
    assert journal.last.stop == 6
    assert synced == [vector_file.stat().st_ino, journal_file.stat().st_ino], "vectors first"
    journal.close()


def test_the_vectors_become_the_output_without_a_copy(begun: Path, vector_file: Path) -> None:
    inode = vector_file.stat().st_ino
    journal = open_journal(begun, resume=True)
    journal.move_vectors()
    journal.close()
    assert begun.stat().st_ino == inode
    np.testing.assert_array_equal(np.load(begun), rows_of(4))
    assert work_folder(begun).is_dir(), "as if it had been killed here"
    assert finish_move(begun)
    assert not work_folder(begun).exists()
    work_folder(begun).mkdir()
    assert not finish_move(begun), "it is finished, and was killed before it removed the folder itself"
    assert not work_folder(begun).exists()


def test_a_move_is_only_finished_where_one_was_begun(begun: Path, vector_file: Path) -> None:
    assert not finish_move(begun), "there is no output"
    begun.write_bytes(b"old")
    assert not finish_move(begun), "the vectors are not moved"
    vector_file.unlink()
    assert not finish_move(begun), "the vectors were lost, not moved"
    journal = open_journal(begun, resume=True)
    assert journal.last.stop == 0
    journal.close()


def test_a_move_that_was_only_announced_is_made_again(begun: Path, journal_file: Path) -> None:
    begun.write_bytes(b"old")
    with journal_file.open("ab") as file:
        file.write(b'{"moved": true}\n')
    assert not finish_move(begun)
    journal = open_journal(begun, resume=True)
    assert journal.last.stop == 6
    journal.move_vectors()
    journal.close()
    np.testing.assert_array_equal(np.load(begun), rows_of(4))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_and_keeps_what_is_there(
    number: int, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    why = re.escape(f"({os.strerror(number)})")
    message = f"the folder {output.parent} is on a file system that cannot lock files {why}; name an output on another"
    with monkeypatch.context() as patch:
        patch.setattr("runtime.jobs.journal.lock_file", refuse)
        with pytest.raises(OutputError, match=message):
            open_journal(output)
    assert not work_folder(output).exists()
    journal = open_journal(output)
    journal.append(make_entry(3, 2), rows_of(2))
    journal.close()
    monkeypatch.setattr("runtime.jobs.journal.lock_file", refuse)
    with pytest.raises(OutputError, match=message):
        open_journal(output, resume=True)
    assert is_begun(output)
