"""Bound the runs of a graph at a time, of all callers: each takes memory, which ONNX Runtime keeps."""

from __future__ import annotations

import os
import weakref
from queue import SimpleQueue


class RunTurns:
    """Turns, of which a run holds one. A turn is free when nobody refers to it, so Ctrl-C during a run loses none.

    A semaphore would stay taken if Ctrl-C came while the lock in it is entered; see :mod:`runtime.background`.
    """

    def __init__(self, count: int) -> None:
        """Let ``count`` runs happen at a time."""
        self._count = count
        self._renew()

    def take(self) -> object:
        """Wait for a turn, and return it. A forked process has turns of its own."""
        if self._process_id != os.getpid():
            self._renew()
        return self._free.get()

    def _renew(self) -> None:
        free = SimpleQueue[object]()
        for _ in range(self._count):
            free.put(_Turn(free))
        self._free, self._process_id = free, os.getpid()


class _Turn:
    def __init__(self, free: SimpleQueue[object]) -> None:
        self._free = weakref.ref(free)

    def __del__(self) -> None:
        if (free := self._free()) is not None:
            free.put(_Turn(free))
