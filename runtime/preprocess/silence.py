"""Keeps a library's warnings about one item off standard error: an item is embedded or refused, with one reason."""

from __future__ import annotations

import threading
import warnings
from types import TracebackType
from typing import Any, cast


class Quiet:
    """A block in which the modules of one package give no warnings; several threads can be in it at once.

    ``warnings.catch_warnings`` is not for threads: whoever leaves first ends it for the others, and who leaves last
    brings back filters that were gone. Here one entry is put in the list of filters by the first who enters, and
    taken out of the same list by the last who leaves. Meanwhile all threads miss that package's warnings, no others.
    """

    def __init__(self, package: str) -> None:
        """Is ready to be entered, as often as is wanted.

        Args:
            package: Name of the package whose modules warn.
        """
        self._pattern = rf"{package}\."
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                warnings.filterwarnings("ignore", module=self._pattern)
                self._filters = cast(list[Any], warnings.filters)
                self._entry = self._filters[0]
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._entry in self._filters:
                self._filters.remove(self._entry)
