"""What someone else packed, in a folder or in a zip, read without trusting its names or its sizes."""

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
_MAX_DEPTH = 16
_CHUNK_BYTES = 2**20


@contextmanager
def open_archive(path: Path) -> Iterator[Traversable]:
    """Yields the root of a folder or zip; what the block trips over while it reads becomes one of ours.

    Raises:
        WeightsError: It is damaged, a path in it leaves the archive, or it holds far too many files.
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
    """Yields a folder and those in it, at most ``depth`` levels down: links can lead in a circle."""
    yield folder
    if depth:
        for part in sorted(folder.iterdir(), key=lambda part: part.name):
            if part.is_dir():
                yield from walk(part, depth - 1)


def copy_limited(packed: IO[bytes], place: Path, max_bytes: int, source: str) -> None:
    """Copies a stream to ``place``, and stops where it grows beyond ``max_bytes``, whatever its header promised.

    Raises:
        WeightsError: It does; ``source`` names it in the message.
    """
    copied = 0
    with place.open("wb") as file:
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
