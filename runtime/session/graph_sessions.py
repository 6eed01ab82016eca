"""Keep the ONNX Runtime sessions of one graph: with all threads for a batch alone, with a share for side by side."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakSet

if TYPE_CHECKING:
    import onnxruntime

OpenGraph: TypeAlias = "Callable[[int], onnxruntime.InferenceSession]"  # with a number of threads
OPEN: WeakSet[onnxruntime.InferenceSession] = WeakSet()  # all sessions of this process
_opening = threading.Lock()


class GraphSessions:
    """The sessions of one graph. Each holds the weights, so a session is opened when a batch first needs it.

    ONNX Runtime fixes the threads of a run when it opens a session. A process that only embeds many batches, or only
    single ones, holds one session and so one copy of the weights.
    """

    def __init__(
        self,
        first: onnxruntime.InferenceSession,
        *,
        threads: int,
        share: int,
        keeps_both: bool,
    ) -> None:
        """Keep the session that was opened ``first``, with all ``threads``.

        Args:
            first: The session with all threads.
            threads: Threads of a batch alone.
            share: Threads of each batch side by side.
            keeps_both: Whether the process may hold the weights twice. If not, the session that runs first stays.
        """
        self._sessions = {threads: first}
        self._threads, self._share, self._keeps_both = threads, share, keeps_both
        self._used: set[int] = set()
        self._process_id = os.getpid()

    def take(self, open_again: OpenGraph, *, side_by_side: bool) -> onnxruntime.InferenceSession:
        """Return the session for a batch, which ``open_again`` opens if there is none.

        Several threads may call this at once. The function is not kept: its session would never be freed.
        """
        threads = self._share if side_by_side else self._threads
        session = self._sessions.get(threads)
        if session is None or threads not in self._used or self.is_inherited():
            with _opening:
                session = self._open(threads, open_again)
        return session

    def clear(self) -> None:
        """Close all sessions. A batch that needs one opens it again."""
        self._sessions, self._used, self._process_id = {}, set(), os.getpid()

    def is_inherited(self) -> bool:
        """Return whether the process that opened the sessions forked this one. Their threads exist only there."""
        return self._process_id != os.getpid()

    def _open(self, threads: int, open_again: OpenGraph) -> onnxruntime.InferenceSession:
        if self.is_inherited():
            self.clear()
        if threads not in self._sessions and self._used and not self._keeps_both:
            return next(iter(self._sessions.values()))
        if threads not in self._sessions:
            # The session that was opened first is freed now, if no batch has run there.
            self._sessions = {number: session for number, session in self._sessions.items() if number in self._used}
            self._sessions = {**self._sessions, threads: open_again(threads)}
        self._used.add(threads)
        return self._sessions[threads]


def _keep_inherited_sessions() -> None:
    """Never free the sessions that a forked process inherits: their destructor would wait for threads of the parent.

    A reference from Python would not last until the end of the interpreter.
    """
    global _opening  # a thread of the parent may hold the lock
    _opening = threading.Lock()
    for session in OPEN:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    OPEN.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_keep_inherited_sessions)
