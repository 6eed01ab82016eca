"""Check the files of items before they are read."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from runtime.preprocess.item import UnusableItemError

_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)  # of the process, and of the machine


def file_suffix(name: str) -> str:
    """Return the suffix of a file name or URI in lower case, with its dot; empty if it has none."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  pathlib finds no suffix in "a." before Python 3.14


def check_regular_file(path: str | os.PathLike[str]) -> None:
    """Check that ``path`` is a regular file. Reading a pipe could wait forever; a device could fill the memory.

    Raises:
        UnusableItemError: The path is empty, or names a pipe, a socket or a device.
        IsADirectoryError: The path names a folder.
        OSError: The file does not exist, or its folder is not readable.
        ValueError: The path contains a character that no path can contain.
    """
    if not os.fspath(path):
        raise UnusableItemError("the path is empty")
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError
    if not stat.S_ISREG(mode):
        raise UnusableItemError("it is not a regular file; save it in one")


def describe_file_error(exc: Exception) -> str | None:
    """Return the reason why a file cannot be read; ``None`` if ``exc`` is not about access to the file.

    Raises:
        OSError: ``exc`` itself, if the process or the machine may open no more files: the file is not at fault.
    """
    if isinstance(exc, OSError) and exc.errno in _TOO_MANY_FILES:
        raise exc
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        return f"there is no such file{_explain_missing(str(exc.filename or ''))}"
    if isinstance(exc, PermissionError):
        return "there is no permission to read it"
    if isinstance(exc, IsADirectoryError):
        return "it is a folder; name the files in it"
    return None


def _explain_missing(name: str) -> str:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", name):  # pathlib made one slash of two
        return ", and nothing is downloaded; give the path or the bytes of a file"
    if name.startswith("~"):
        return "; write out the home folder that ~ stands for"
    return "" if file_suffix(name) or os.sep in name else "; if it is a text, this tower takes only files"
