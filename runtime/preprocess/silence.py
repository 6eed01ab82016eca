"""Suppress the warnings of a library: an item is embedded, or refused with one reason."""

from __future__ import annotations

import ctypes
import threading
import warnings
from functools import cache
from typing import Any, cast


class SuppressWarnings:
    """A context manager that suppresses the warnings of packages, and is safe in several threads at once.

    ``warnings.catch_warnings`` is not safe: the first thread that leaves restores the filters for all. Here the first
    thread that enters adds one filter for all threads, and the last thread that leaves removes it.
    """

    def __init__(self, *packages: str) -> None:
        """Suppress the warnings of the modules in ``packages``."""
        self._pattern = rf"({'|'.join(packages)})\."
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                warnings.filterwarnings("ignore", module=self._pattern)
                self._filters = cast(list[Any], warnings.filters)
                self._entry = self._filters[0]
            self._inside += 1

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._entry in self._filters:
                self._filters.remove(self._entry)


@cache
def silence_libtiff(library: str) -> None:
    """Stop libtiff from printing errors on standard error, for the whole process; Pillow raises them as well.

    Pillow does the same for libtiff's warnings. To redirect file descriptor 2 instead would lose other threads' output.
    On Windows libtiff is part of ``library`` and not reachable.

    Args:
        library: The file of an extension module that is linked to libtiff.
    """
    try:
        set_handler = ctypes.CDLL(library).TIFFSetErrorHandler
    except (OSError, AttributeError):
        return
    set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
    set_handler(None)
