"""Record the progress of a job on disk, so that an interrupted job can be resumed.

The folder ``.OUTPUT.work`` beside the output holds the vectors and ``journal.jsonl``. Its first line is the job's
fingerprint. Each other line is an entry: a range of the input that is embedded. Vectors are on the disk before their
entry is written, so an entry is always true. Rows without an entry and incomplete lines are dropped on resume.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from runtime.array_types import Float32Array
from runtime.atomic_write import NO_SPACE
from runtime.errors import OutputError, UsageError
from runtime.file_lock import lock_file
from runtime.jobs.vector_file import OPEN_FLAGS, VectorFile, close_synced, write_all

COMMIT_INTERVAL_S = 1.0  # between two commits; syncing more often would slow the job down
_JOURNAL, _VECTORS = "journal.jsonl", "vectors.f32"
_MOVED = {"moved": True}  # last line of the journal; if the vectors are gone as well, the output is complete
_SHOWN = 120  # characters of a fingerprint's value in an error


class JournalEntry(NamedTuple):
    """A range of the input that is embedded or left out. The counts are totals from the start of the input.

    Attributes:
        stop: Number of input items up to the end of the range.
        rows: Number of output rows up to there.
        failures: Index, item and reason of each item in the range that was left out.
        names: Name of each row in the range; ``None`` if the output holds no names.
        truncated: Number of texts up to there that were cut to the token limit.
        sha256: Digest of all items up to there.
        digests: Digest of the item of each row in the range; ``None`` if the output holds no names.
    """

    stop: int
    rows: int
    failures: list[tuple[int, str, str]]
    names: list[str] | None
    truncated: int
    sha256: str
    digests: list[int] | None


_START = JournalEntry(0, 0, [], None, 0, "", None)


class Journal:
    """The locked work folder of one output.

    Attributes:
        vectors: The vectors so far.
        is_new: Whether there was no job to resume.
        last: The last entry that is on the disk.
    """

    def __init__(self, output: Path, fingerprint: Mapping[str, Any], *, dim: int, resume: bool, force: bool) -> None:
        """Open or create the work folder beside ``output``.

        Args:
            output: The file that the job writes.
            fingerprint: Names and JSON values that must be equal when the job is resumed.
            dim: Length of a vector.
            resume: Continue the unfinished job, if there is one.
            force: Drop an unfinished job, unless ``resume`` is given.

        Raises:
            OutputError: Another process writes this output, or there is an unfinished job and neither flag is given. Or
                the folder cannot be written, or its file system has no locks.
            UsageError: The unfinished job has another fingerprint.
        """
        self._output = output
        self._folder = work_folder(output)
        self._pending: list[JournalEntry] = []
        self._committed_s = time.monotonic()
        self._keep = True
        with _writing(output, "or name another place"):
            self._folder.mkdir(exist_ok=True)
            self._descriptor = os.open(self._folder / _JOURNAL, OPEN_FLAGS, 0o666)
        try:
            self._lock()
            begun = None if force and not resume else _read_fingerprint(self._folder)
            if begun is not None and not resume and not force:
                way_out = "go on with --resume, or start again with --force"
                raise OutputError(f"{output} is begun and not finished; {way_out}")
            self.is_new = begun is None or not resume
            if begun is not None and resume:
                way_out = "repeat the same command with the same version on the same kind of machine"
                check_same(f"the unfinished {output}", begun, json.loads(json.dumps(fingerprint)), way_out)
            self._open_vectors(dim, fingerprint if self.is_new else None)
        except BaseException:
            self._close_folder()
            raise

    def append(self, entry: JournalEntry, vectors: Float32Array) -> None:
        """Append an entry and its ``[rows, dim]`` vectors, and commit if :data:`COMMIT_INTERVAL_S` has passed.

        Raises:
            OutputError: The disk is full, for example.
        """
        with self.writing():
            self.vectors.append(vectors)
        self._pending.append(entry)
        if time.monotonic() - self._committed_s >= COMMIT_INTERVAL_S:
            self.commit()

    def commit(self) -> None:
        """Wait until everything appended is on the disk.

        Raises:
            OutputError: The disk is full, for example, or another process removed the work folder.
        """
        pending, self._pending = self._pending, []  # after a second Ctrl-C, the next commit must not repeat these
        if not pending:
            return
        with self.writing():
            if not (self._is_in_place() and self.vectors.path.exists()):
                raise OutputError(f"the vectors in {self._folder} were removed meanwhile; run the same command again")
            self.vectors.sync()
            self._write(*(entry._asdict() for entry in pending))
        self.last = pending[-1]
        self._committed_s = time.monotonic()

    def entries(self) -> Iterator[JournalEntry]:
        """Yield all entries that are on the disk."""
        for _, entry in islice(_read_entries(self._folder), 1, None):
            yield entry
            if entry.stop >= self.last.stop:
                return

    def work_path(self, name: str) -> Path:
        """Return the path of a temporary file on the file system of the output."""
        return self._folder / name

    def move(self, name: str, place: Path) -> None:
        """Move the file at :meth:`work_path` to ``place``."""
        with self.work_path(name).open("r+b") as file:
            os.fsync(file.fileno())
        self.work_path(name).replace(place)

    def move_output(self, name: str) -> None:
        """Make the file at :meth:`work_path` the output. The vectors are not needed afterwards."""
        self.move(name, self._output)
        self._write(_MOVED)

    def move_vectors(self) -> None:
        """Make the vectors the output, a float32 .npy file, without a copy."""
        self.vectors.finish_npy(self.last.rows)
        self._write(_MOVED)
        self.vectors.path.replace(self._output)

    def writing(self) -> AbstractContextManager[None]:
        """Return a context that raises an :class:`OutputError` for an ``OSError``."""
        return _writing(self._output, "then run the same command with --resume")

    def discard(self) -> None:
        """Let :meth:`close` remove the work folder."""
        self._keep = False

    def close(self) -> None:
        """Commit and unlock. Remove the work folder if nothing is embedded or :meth:`discard` was called."""
        with suppress(OutputError):
            self.commit()
        self._keep = self._keep and bool(self.last.stop)
        self.vectors.close()
        self._close_folder()

    def _close_folder(self) -> None:
        if sys.platform == "win32":  # Windows does not remove an open file
            close_synced(self._descriptor)
        if not self._keep:
            with suppress(OSError):  # before the journal, by which a later process finds what a killed one leaves
                self.work_path(_VECTORS).unlink()
            shutil.rmtree(self._folder, ignore_errors=True)
        if sys.platform != "win32":  # the lock holds until the folder is gone
            close_synced(self._descriptor)
        if not self._keep:
            with suppress(OSError):  # NFS and FUSE keep an open file, and so its folder, until it is closed
                self._folder.rmdir()

    def _lock(self) -> None:
        message = f"another process is writing {self._output}; wait for it, or name another output"
        try:
            lock_file(self._descriptor)
        except BlockingIOError:
            raise OutputError(message) from None
        except OSError as exc:
            found = f"the folder {self._folder.parent.absolute()} is on a file system that cannot lock files"
            self._keep = os.fstat(self._descriptor).st_size > 0
            way_out = "name an output on another one, such as a local disk, and copy it afterwards"
            raise OutputError(f"{found} ({exc.strerror or exc}); {way_out}") from exc
        with self.writing():
            if not self._is_in_place():  # the other job ended and removed its folder just now
                raise OutputError(message)

    def _is_in_place(self) -> bool:
        """Return whether the journal that is open is still that of the folder. Writing to a removed file succeeds."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), (self._folder / _JOURNAL).stat())
        except FileNotFoundError:
            return False

    def _open_vectors(self, dim: int, fingerprint: Mapping[str, Any] | None) -> None:
        """Open the vectors of a new job with ``fingerprint``, or of the job to resume.

        Both files are truncated after the last entry whose vectors exist.
        """
        self._keep = fingerprint is None
        with self.writing():
            self.vectors = VectorFile(self._folder / _VECTORS, dim)
            end, self.last = 0, _START
            for line_end, entry in _read_entries(self._folder) if fingerprint is None else ():
                if not self.vectors.holds(entry.rows):
                    break
                end, self.last = line_end, entry
            self.vectors.truncate(self.last.rows)
            os.ftruncate(self._descriptor, end)
            os.lseek(self._descriptor, end, os.SEEK_SET)
            if fingerprint is not None:
                self._write(fingerprint)
        self._keep = True

    def _write(self, *lines: Mapping[str, Any]) -> None:
        write_all(self._descriptor, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        os.fsync(self._descriptor)


def work_folder(output: Path) -> Path:
    """Return the work folder of ``output``."""
    return output.with_name(f".{output.name}.work")


def is_begun(output: Path) -> bool:
    """Return whether ``output`` has an unfinished job."""
    return _read_fingerprint(work_folder(output)) is not None


def finish_move(output: Path) -> bool:
    """Finish a job that was killed while it moved its vectors or removed its folder, and return whether there was one.

    The output of such a job is complete: :meth:`Journal.move_output` or :meth:`Journal.move_vectors` made it.
    """
    folder = work_folder(output)
    if not output.is_file():
        return False
    with suppress(OSError):
        folder.rmdir()  # if it is empty: a job was killed before it removed the folder itself
    if not is_begun(output) or (folder / _VECTORS).exists():
        return False
    lines = (folder / _JOURNAL).read_bytes().splitlines()
    if _decode(lines[-1] + b"\n") != _MOVED:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


@contextmanager
def _writing(output: Path, way_out: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        remedy = "free some disk space" if exc.errno in NO_SPACE else f"check the folder {output.parent.absolute()}"
        raise OutputError(f"cannot write {output} ({exc.strerror or exc}); {remedy}, {way_out}") from exc


def _read_fingerprint(folder: Path) -> dict[str, Any] | None:
    """Return the first line of the journal; ``None`` if it is missing or incomplete.

    Raises:
        OutputError: It cannot be read. Without this, a new job would drop what is embedded.
    """
    path = folder / _JOURNAL
    try:
        with path.open("rb") as file:
            return _decode(file.readline())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        way_out = f"check the folder {folder.absolute()}, then run the same command again"
        raise OutputError(f"cannot read {path} ({exc.strerror or exc}); {way_out}") from exc


def _read_entries(folder: Path) -> Iterator[tuple[int, JournalEntry]]:
    """Yield the start and each entry with the offset of its end, up to the first incomplete line."""
    with (folder / _JOURNAL).open("rb") as file:
        end = len(file.readline())
        yield end, _START
        for line in file:
            end += len(line)
            try:
                entry = JournalEntry(**_decode(line) or {})
            except TypeError:
                return
            yield end, entry


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def check_same(output: str, begun: Mapping[str, Any], asked: Mapping[str, Any], way_out: str) -> None:
    """Check that ``output``, of a job with the settings ``begun``, is that of the job that is ``asked`` for.

    Raises:
        UsageError: A setting differs.
    """
    for name in {**begun, **asked}:
        if begun.get(name) != asked.get(name):
            raise UsageError(
                f"{output} is another job: its {name} is {_show(begun.get(name))}, but now it is "
                f"{_show(asked.get(name))}; {way_out}, or start again with --force and without --resume"
            )


def _show(value: object) -> str:
    if value is None:
        return "none"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
