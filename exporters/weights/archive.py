"""Folders and zip files of unknown origin, read without trusting their names or sizes."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO

from exporters.errors import WeightsError

MAX_ENTRIES = 10_000
_MAX_DEPTH = 16  # links can lead in a circle
_CHUNK_BYTES = 2**20


@contextmanager
def open_archive(path: Path) -> Iterator[Traversable]:
    """Yield the root of a folder or zip file, and report errors of reading it in the block.

    Raises:
        WeightsError: The archive is damaged, has too many files, or has a path that leads outside.
    """
    try:
        if path.is_dir():
            yield path
        else:
            with zipfile.ZipFile(path) as archive:
                _check_names(archive.namelist(), path)
                yield zipfile.Path(archive)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, OSError, EOFError, RuntimeError, NotImplementedError) as exc:
        raise WeightsError(f"{path} is damaged or cannot be read ({exc}); copy or download it again") from exc


def walk(folder: Traversable, depth: int = _MAX_DEPTH) -> Iterator[Traversable]:
    """Yield a folder and the folders in it, at most ``depth`` levels down."""
    yield folder
    if depth:
        for part in sorted(folder.iterdir(), key=lambda part: part.name):
            if part.is_dir():
                yield from walk(part, depth - 1)


def copy_limited(packed: IO[bytes], destination: Path, max_bytes: int, source: str) -> None:
    """Copy a stream to ``destination``. Stop at ``max_bytes``, whatever size the archive's header states.

    Raises:
        WeightsError: The stream is longer; the message names ``source``.
    """
    copied = 0
    with destination.open("wb") as file:
        while chunk := packed.read(_CHUNK_BYTES):
            copied += len(chunk)
            if copied > max_bytes:
                raise WeightsError(f"{source} is larger than {max_bytes} bytes; it is not read")
            file.write(chunk)


def _check_names(names: Sequence[str], path: Path) -> None:
    if len(names) > MAX_ENTRIES:
        raise WeightsError(f"{path} holds {len(names)} files, far more than a run's artifact; it is not read")
    for name in names:
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or ":" in name:
            raise WeightsError(f"{path} holds the file {name!r}, whose path leaves the archive; it is not read")
