"""Bound the runs of a graph at a time, of all callers: each takes memory, which ONNX Runtime keeps."""

from __future__ import annotations

import os
import weakref
from queue import SimpleQueue


class RunTurns:
    """Turns, of which a run holds one. A turn is free again when nobody refers to it, so Ctrl-C can lose none.

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

    def give_back(self) -> None:
        """Add a turn."""
        self._free.put(_Turn(self))

    def _renew(self) -> None:
        self._free, self._process_id = SimpleQueue[object](), os.getpid()
        for _ in range(self._count):
            self.give_back()


class _Turn:
    def __init__(self, turns: RunTurns) -> None:
        self._turns = weakref.ref(turns)

    def __del__(self) -> None:
        if (turns := self._turns()) is not None:
            turns.give_back()
