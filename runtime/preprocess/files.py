"""Files of items, looked at before they are read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from runtime.preprocess import UnusableItemError


def check_regular_file(path: str | os.PathLike[str]) -> None:
    """Refuses what is no file with an end: reading a pipe could wait forever, and reading a device fill the memory.

    Raises:
        UnusableItemError: The path is empty, or names a pipe, a socket or a device.
        IsADirectoryError: It names a folder.
        OSError: There is no such file, or no permission to look.
        ValueError: It holds what no path can hold.
    """
    if not os.fspath(path):
        raise UnusableItemError("the path is empty")
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError
    if not stat.S_ISREG(mode):
        raise UnusableItemError("it is not a regular file; save it in one")
