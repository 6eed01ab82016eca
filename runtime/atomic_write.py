"""Write a file or a folder whole or not at all."""

from __future__ import annotations

import errno
import glob
import logging
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runtime.errors import OutputError
from runtime.file_lock import locked

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # of a full disk, a quota, or a limit of files (ulimit -f)
_LOG = logging.getLogger("runtime")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, beside ``path``. It replaces ``path`` if the block succeeds; else it is removed.

    Raises:
        OSError: The file cannot be written.
    """
    partial = partial_path(path)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        with replacing(path) as partial:
            partial.write_text(text, "utf-8")
    except OSError as exc:
        raise OutputError(f"cannot write {path} ({exc.strerror}); free some disk space or fix its permissions") from exc


def partial_path(place: Path) -> Path:
    """Return a new path beside ``place``, for a file or folder that is to become ``place``."""
    return place.with_name(f".{place.name}.{secrets.token_hex(4)}.partial")


def find_leftovers(place: Path, *suffixes: str) -> list[Path]:
    """Return the paths of :func:`partial_path` for ``place`` that exist, with any of ``suffixes``."""
    name = f".{glob.escape(place.name)}.{'[0-9a-f]' * 8}"
    return sorted(path for suffix in suffixes for path in place.parent.glob(f"{name}.{suffix}"))


def replace_folder(partial: Path, place: Path) -> None:
    """Move a complete folder from its :func:`partial_path` to ``place``, and remove the earlier folder there.

    If a move fails, the earlier folder returns and ``partial`` stays. If the process is killed,
    :func:`finish_replacement` goes on.

    Raises:
        OSError: A folder cannot be moved.
    """
    old = partial.with_suffix(".old")
    with locked(partial):
        try:
            if place.exists():
                place.rename(old)
            partial.rename(place)
        except BaseException:  # Ctrl-C too
            if old.exists() and not place.exists():
                old.rename(place)
            raise
    shutil.rmtree(old, ignore_errors=True)


def finish_replacement(place: Path) -> None:
    """Finish :func:`replace_folder` to ``place`` for each process that was killed in it.

    Raises:
        OSError: A folder cannot be moved.
    """
    for old in find_leftovers(place, "old"):
        partial = old.with_suffix(".partial")
        with suppress(FileNotFoundError), locked(partial) as free:
            if free is not False and partial.exists() and not place.exists():
                partial.rename(place)
                _LOG.warning("%s is complete: a process was killed while it replaced an earlier folder", place)
        if place.exists() and not partial.exists():
            shutil.rmtree(old, ignore_errors=True)
