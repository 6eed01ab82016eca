"""Open files by a path of this machine, or by a URI that pyarrow supports, such as s3://bucket/folder."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

from pyarrow import fs

from runtime.errors import UsageError

_BUFFER_BYTES = 8 << 20  # an object store takes tens of milliseconds for a request of any size
OPEN_FILES = 16  # that are read at once: an object store takes about 100 ms for each
_FILE_SYSTEMS: dict[tuple[str, str, str], fs.FileSystem] = {}  # by scheme, authority and query
_File = TypeVar("_File")
_Content = TypeVar("_Content")


def is_uri(place: str) -> bool:
    """Return whether ``place`` is a URI rather than a path."""
    return "://" in place


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
    try:
        file_system, path = fs.FileSystem.from_uri(place)
    except (ValueError, OSError, NotImplementedError) as exc:
        found = str(exc).replace(place, shown)  # pyarrow quotes the credentials, too
        way_out = "give a path or a URI such as s3://bucket/folder, with %20 for a space and %2F for a / in a secret"
        raise UsageError(f"{shown} cannot be opened ({found}); {way_out}") from None
    parts = urlsplit(place)
    return _FILE_SYSTEMS.setdefault((parts.scheme, parts.netloc, parts.query), file_system), path


def open_buffered(place: str, offset: int = 0) -> io.BufferedReader:
    """Open the file at ``place`` to be read in large requests, from the byte ``offset`` on.

    Raises:
        OSError: It cannot be read.
    """
    file_system, path = open_place(place)
    file = file_system.open_input_file(path)
    file.seek(offset)
    return io.BufferedReader(file, _BUFFER_BYTES)


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


def public_name(place: str) -> str:
    """Return ``place`` in valid UTF-8, to be printed and recorded; a URI without credentials, query and quoting."""
    if not is_uri(place):
        return place.encode("utf-8", "backslashreplace").decode()
    parts = urlsplit(place)
    if "@" not in parts.netloc and ":" in parts.netloc and "@" in parts.path:
        return f"{parts.scheme}://..."  # an unquoted / in a secret ends the host too early
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{unquote(parts.path)}"


def absolute(place: str) -> str:
    """Return ``place`` so that a process in another folder can open it."""
    return place if is_uri(place) else str(Path(place).absolute())
