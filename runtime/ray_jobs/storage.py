"""Open files by a path of this machine, or by a URI that pyarrow supports, such as s3://bucket/folder."""

from __future__ import annotations

import io
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow import fs

from runtime.errors import UsageError

_BUFFER_BYTES = 8 << 20  # an object store takes tens of milliseconds for a request of any size


def is_uri(place: str) -> bool:
    """Return whether ``place`` is a URI rather than a path."""
    return "://" in place


def open_place(place: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of ``place``, and the path in it.

    Raises:
        UsageError: pyarrow has no file system for this URI.
    """
    if not is_uri(place):
        return fs.LocalFileSystem(), absolute(place)
    try:
        file_system, path = fs.FileSystem.from_uri(place)
    except (ValueError, OSError, NotImplementedError) as exc:
        way_out = "give a path or a URI such as s3://bucket/folder"
        raise UsageError(f"{public_name(place)} cannot be opened ({exc}); {way_out}") from exc
    return file_system, path


def open_buffered(place: str, offset: int = 0) -> io.BufferedReader:
    """Open the file at ``place`` to be read in large requests, from the byte ``offset`` on.

    Raises:
        OSError: It cannot be read.
    """
    file_system, path = open_place(place)
    file = file_system.open_input_file(path)
    file.seek(offset)
    return io.BufferedReader(file, _BUFFER_BYTES)


def join(place: str, relative: str) -> str:
    """Return the place of a file in the folder ``place``. The query of a URI stays at its end."""
    if not is_uri(place):
        return str(Path(place) / relative)
    base, mark, query = place.partition("?")
    return f"{base.rstrip('/')}/{relative}{mark}{query}"


def public_name(place: str) -> str:
    """Return ``place`` without the credentials and the query of a URI, to be printed and recorded."""
    if not is_uri(place):
        return place
    parts = urlsplit(place)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def absolute(place: str) -> str:
    """Return ``place`` so that a process in another folder can open it."""
    return place if is_uri(place) else str(Path(place).absolute())
