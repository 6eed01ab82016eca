"""Lock a file or a folder against other processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Locks are mandatory on Windows, so lock a byte behind the data; msvcrt.locking takes offsets below 2 GiB only.
_WINDOWS_LOCKED_BYTE = 0x7FFF_FFF0


def lock_file(descriptor: int) -> None:
    """Lock an open file until it is closed or the process ends.

    Raises:
        BlockingIOError: Another process has locked it.
        OSError: Its file system cannot lock files.
    """
    if sys.platform == "win32":
        import msvcrt

        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, _WINDOWS_LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as exc:
            raise BlockingIOError(*exc.args) from exc
        finally:
            os.lseek(descriptor, place, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(path: Path) -> Iterator[bool | None]:
    """Lock a file or a folder while the block runs. A process that is killed loses its lock.

    Yields:
        Whether it was free; ``None`` if that is unknown: some file systems have no locks, and Windows opens no folders.

    Raises:
        OSError: It cannot be opened.
    """
    if sys.platform == "win32" and path.is_dir():
        yield None
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        free: bool | None = True
        try:
            lock_file(descriptor)
        except OSError as exc:
            free = False if isinstance(exc, BlockingIOError) else None
        yield free
    finally:
        os.close(descriptor)
