"""Places that hold files: a path of this machine, or a URI that pyarrow opens, s3://bucket/folder say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runtime.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from pyarrow import fs


def is_uri(place: str) -> bool:
    """Tells whether ``place`` is a URI, and not a path."""
    return "://" in place


def open_place(place: str) -> tuple[fs.FileSystem, str]:
    """Returns the file system of ``place``, and the path in it.

    Raises:
        UsageError: pyarrow has no file system for such a URI.
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        from pyarrow import fs
    except ImportError as exc:
        raise MissingDependencyError(
            f"pyarrow cannot be imported ({exc}); run `pip install 'embedding-backbones[ray]'`"
        ) from exc
    if not is_uri(place):
        return fs.LocalFileSystem(), str(Path(place).absolute())
    try:
        file_system, path = fs.FileSystem.from_uri(place)
    except (ValueError, OSError, NotImplementedError) as exc:
        raise UsageError(f"{public_name(place)} cannot be opened ({exc}); give a path, or a URI such as s3://") from exc
    return file_system, path


def join(place: str, relative: str) -> str:
    """Returns the place of a file in the folder ``place``; what follows a URI's ``?`` stays at its end."""
    if not is_uri(place):
        return str(Path(place) / relative)
    base, mark, query = place.partition("?")
    return f"{base.rstrip('/')}/{relative}{mark}{query}"


def public_name(place: str) -> str:
    """Returns ``place`` as it may be shown and recorded: of a URI, neither credentials nor options."""
    if not is_uri(place):
        return place
    parts = urlsplit(place)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def absolute(place: str) -> str:
    """Returns ``place`` as another process may open it."""
    return place if is_uri(place) else str(Path(place).absolute())
