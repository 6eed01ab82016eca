"""What a job has done so far, on disk beside its output, so that a killed one goes on where it stopped.

The folder ``.OUTPUT.work`` holds the spool of vectors and ``journal.jsonl``: the job's fingerprint on the first line,
and a line for each part of the input that is embedded. Vectors reach the disk before the line that vouches for them, so
what the journal says is there. What lies behind it (rows without a line, half a line) is dropped when the job is
resumed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from runtime.errors import OutputError, UsageError
from runtime.jobs.vector_file import Float32Array, Spool, write_all

if sys.platform != "win32":
    import fcntl

SCHEMA = 1
COMMIT_INTERVAL_S = 1.0  # of work that a loss of power can cost; the disk is waited for no more often
_JOURNAL, _SPOOL = "journal.jsonl", "vectors.f32"
_SHOWN = 120  # characters of a fingerprint's value in an error


class Part(NamedTuple):
    """A part of the input that is done with: embedded, or left out.

    Attributes:
        stop: Items of the input up to its end.
        rows: Rows of the output up to its end.
        failures: Index, item and reason of each item that was left out.
        names: The name of each row; None where the output holds none.
        truncated: Texts up to its end that were embedded without their own.
        sha256: Of all items up to its end.
    """

    stop: int
    rows: int
    failures: list[tuple[int, str, str]]
    names: list[str] | None
    truncated: int
    sha256: str


_START = Part(0, 0, [], None, 0, "")


class Journal:
    """The work folder of one output, locked.

    Attributes:
        spool: The vectors.
        last: The last part that the disk has.
    """

    def __init__(self, output: Path, fingerprint: Mapping[str, Any], *, dim: int, resume: bool, force: bool) -> None:
        """Opens the work folder beside ``output``, or makes it.

        Args:
            output: The file that the job writes.
            fingerprint: What has to be the same when the job is resumed: values of JSON, by what they are called.
            dim: Values of a vector.
            resume: Go on with what is there.
            force: Drop what is there, unless ``resume`` is given.

        Raises:
            OutputError: Another process writes this output; or there is an unfinished job, and neither flag; or the
                folder cannot be written.
            UsageError: The unfinished job is another one.
        """
        self._output = output
        self._folder = work_folder(output)
        self._pending: list[Part] = []
        self._committed_s = time.monotonic()
        with _writing(output, "name another place"):
            self._folder.mkdir(exist_ok=True)
            self._descriptor = os.open(self._folder / _JOURNAL, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._lock()
            begun = self._read_begun(resume=resume, force=force)
            if begun is not None:
                _check_same(output, begun, fingerprint)
            self.spool, self.last = self._open_spool(dim, fingerprint, resumed=begun is not None)
        except BaseException:
            os.close(self._descriptor)
            raise

    def append(self, part: Part, vectors: Float32Array) -> None:
        """Takes the vectors ``[rows, dim]`` of ``part``; now and then, makes sure that the disk has them.

        Raises:
            OutputError: The disk is full, say.
        """
        with self._writing():
            self.spool.append(vectors)
        self._pending.append(part)
        if time.monotonic() - self._committed_s >= COMMIT_INTERVAL_S:
            self.commit()

    def commit(self) -> None:
        """Returns when the disk has all that was appended.

        Raises:
            OutputError: The disk is full, say.
        """
        pending, self._pending = self._pending, []  # a second Ctrl-C must not find half of them written, and repeat it
        if not pending:
            return
        with self._writing():
            self.spool.sync()
            self._write(*(part._asdict() for part in pending))
        self.last = pending[-1]
        self._committed_s = time.monotonic()

    def parts(self) -> Iterator[Part]:
        """Yields all parts that the disk has, read as they are needed."""
        for _, part in _read_parts(self._folder / _JOURNAL):
            yield part
            if part.stop >= self.last.stop:
                return

    def work_path(self, name: str) -> Path:
        """Returns the place of a file that is being made, on the file system of the output."""
        return self._folder / name

    def move(self, name: str, place: Path) -> None:
        """Moves a file that was made at :meth:`work_path` to its place."""
        with self._writing():
            with self.work_path(name).open("rb") as file:
                os.fsync(file.fileno())
            self.work_path(name).replace(place)

    def move_spool(self) -> None:
        """Makes the spool the output, a .npy file, without a copy."""
        with self._writing():
            self.spool.make_npy(self.last.rows)
            self._write({"moved": True})
            self.spool.path.replace(self._output)

    def discard(self) -> None:
        """Removes the work folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Keeps what is done for a later run, or removes the folder if that is nothing; lets another process in."""
        with suppress(OutputError):
            self.commit()
        if not self.last.stop:
            self.discard()
        self.spool.close()
        os.close(self._descriptor)

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        message = f"another process is writing {self._output}; wait for it, or name another output"
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(self._descriptor), (self._folder / _JOURNAL).stat()):
                raise OutputError(message)
        except FileNotFoundError:  # the other one ended between our opening and our locking
            raise OutputError(message) from None
        except BlockingIOError:
            raise OutputError(message) from None

    def _read_begun(self, *, resume: bool, force: bool) -> dict[str, Any] | None:
        """Returns the fingerprint of the job that is to be resumed, if any."""
        begun = _read_fingerprint(self._folder / _JOURNAL)
        if begun is not None and not resume and not force:
            raise OutputError(
                f"{self._output} is begun and not finished; go on with --resume, or start again with --force"
            )
        return begun if resume else None

    def _open_spool(self, dim: int, fingerprint: Mapping[str, Any], *, resumed: bool) -> tuple[Spool, Part]:
        """Returns the spool, and the part up to which it and the journal are good: there both are cut."""
        try:
            with self._writing():
                spool = Spool(self._folder / _SPOOL, dim)
                end, last = self._find_last(spool) if resumed else (0, _START)
                spool.cut(last.rows)
                os.ftruncate(self._descriptor, end)
                os.lseek(self._descriptor, end, os.SEEK_SET)
                if not resumed:
                    self._write(fingerprint)
        except OutputError:
            if not resumed:
                self.discard()
            raise
        return spool, last

    def _find_last(self, spool: Spool) -> tuple[int, Part]:
        """Returns the last part whose vectors are there, and where its line ends."""
        with (self._folder / _JOURNAL).open("rb") as file:
            end, last = len(file.readline()), _START
        for line_end, part in _read_parts(self._folder / _JOURNAL):
            if not spool.holds(part.rows):
                break
            end, last = line_end, part
        return end, last

    def _write(self, *lines: Mapping[str, Any]) -> None:
        write_all(self._descriptor, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        os.fsync(self._descriptor)

    def _writing(self) -> Any:
        return _writing(self._output, "then run the same command with --resume")


def work_folder(output: Path) -> Path:
    """Returns where the unfinished job of ``output`` is kept."""
    return output.with_name(f".{output.name}.work")


def is_begun(output: Path) -> bool:
    """Tells whether there is something to resume."""
    return _read_fingerprint(work_folder(output) / _JOURNAL) is not None


def finish_move(output: Path) -> bool:
    """Tells whether a job had moved its spool to ``output`` when it was killed, and clears up behind it if so."""
    folder = work_folder(output)
    if not output.is_file() or not is_begun(output) or (folder / _SPOOL).exists():
        return False
    lines = (folder / _JOURNAL).read_bytes().splitlines()
    if json.loads(lines[-1]) != {"moved": True}:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


@contextmanager
def _writing(output: Path, way_out: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise OutputError(f"cannot write {output} ({exc.strerror or exc}); free some space, {way_out}") from exc


def _read_fingerprint(path: Path) -> dict[str, Any] | None:
    """Returns the first line of a journal, or None where there is none that is whole."""
    try:
        with path.open("rb") as file:
            line = file.readline()
            document = json.loads(line) if line.endswith(b"\n") else None
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _read_parts(path: Path) -> Iterator[tuple[int, Part]]:
    """Yields each part with the offset at which its line ends, up to the first line that is not whole."""
    with path.open("rb") as file:
        end = len(file.readline())
        for line in file:
            end += len(line)
            part = _decode_part(line)
            if part is None:
                return
            yield end, part


def _decode_part(line: bytes) -> Part | None:
    try:
        document = json.loads(line) if line.endswith(b"\n") else None
        return Part(**document) if document else None
    except (ValueError, TypeError):
        return None


def _check_same(output: Path, begun: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    for name in {**begun, **asked}:
        if begun.get(name) != asked.get(name):
            raise UsageError(
                f"the unfinished {output} is of another job: its {name} is {_show(begun.get(name))}, this one's is "
                f"{_show(asked.get(name))}; repeat the same command, or start again with --force and without --resume"
            )


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
