"""Open files by a path of this machine, or by a URI that pyarrow supports, such as s3://bucket/folder."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

import pyarrow as pa
from pyarrow import fs

from runtime.errors import EmbeddingBackbonesError, UsageError, one_line
from runtime.uris import SCHEMES, is_uri, public_name

STORAGE_ERRORS = (OSError, pa.ArrowException)  # Azure without credentials raises a bare ArrowException
_BUFFER_BYTES = 8 << 20  # an object store takes tens of milliseconds for a request of any size
OPEN_FILES = 16  # that are read at once: an object store takes about 100 ms for each
_FILE_SYSTEMS: dict[tuple[str, str, str], fs.FileSystem] = {}  # by scheme, authority and query
_File = TypeVar("_File")
_Content = TypeVar("_Content")


def open_place(place: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of ``place``, and the path in it.

    URIs of one bucket share a file system, and so its connections and credentials.

    Raises:
        UsageError: pyarrow has no file system for this URI, or the path is not UTF-8.
    """
    shown = public_name(place)
    if not is_uri(place):
        if shown != place:
            raise UsageError(f"{shown} cannot be opened (its name is not UTF-8); rename it")
        return fs.LocalFileSystem(), absolute(place)
    way_out = f"give a path or a URI of {SCHEMES}, with %20 for a space, %23 for a # and %2F for a / in a secret"
    if "#" in place:  # pyarrow would leave out what follows, and open another place
        raise UsageError(f"{shown} cannot be opened (the URI has a #); {way_out}")
    try:
        file_system, path = fs.FileSystem.from_uri(place)
    except (*STORAGE_ERRORS, ValueError) as exc:
        found = " ".join(str(exc).replace(place, shown).split())  # pyarrow quotes the credentials, too
        raise UsageError(f"{shown} cannot be opened ({found:.300}); {way_out}") from None
    parts = urlsplit(place)
    return _FILE_SYSTEMS.setdefault((parts.scheme, parts.netloc, parts.query), file_system), path


@contextmanager
def reading(
    place: str, local: str = "check the file and its rights", error: type[EmbeddingBackbonesError] = UsageError
) -> Iterator[None]:
    """Raise ``error`` if ``place`` cannot be read. ``local`` is the way out if it is a path."""
    try:
        yield
    except STORAGE_ERRORS as exc:
        way_out = "check that it is there, and that each machine has the right to read it" if is_uri(place) else local
        raise error(f"cannot read {public_name(place)} ({one_line(exc)}); {way_out}") from exc


def open_buffered(place: str) -> io.BufferedReader:
    """Open the file at ``place`` to be read in large requests.

    Raises:
        OSError: It cannot be read.
        pyarrow.ArrowException: An object store refuses it.
    """
    file_system, path = open_place(place)
    return io.BufferedReader(file_system.open_input_file(path), _BUFFER_BYTES)


def read_each(
    read: Callable[[_File], _Content], files: Iterable[_File], *, at_once: int = OPEN_FILES
) -> list[_Content]:
    """Call ``read`` for each file in ``at_once`` threads, and return the results in the order of ``files``.

    Raises:
        Exception: The first error of ``read``, in the order of ``files``.
    """
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(read, files))


def join(place: str, relative: str) -> str:
    """Return the place of the file ``relative`` in the folder ``place``. In a URI it is quoted, before the query."""
    if not is_uri(place):
        return str(Path(place) / relative)
    base, mark, query = place.partition("?")
    return f"{base.rstrip('/')}/{quote(relative)}{mark}{query}"


def absolute(place: str) -> str:
    """Return ``place`` so that a process in another folder can open it."""
    return place if is_uri(place) else str(Path(place).absolute())
