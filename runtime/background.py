"""Work in another thread, and wait for it so that Ctrl-C never leaves a lock taken.

``Future.result`` and ``Event.wait`` enter a lock in Python. Ctrl-C in that moment leaves the lock taken, and the thread
that must take it next waits for ever: https://github.com/python/cpython/issues/74174. ``SimpleQueue.get`` is one call
in C, which Ctrl-C ends cleanly. Only the main thread receives Ctrl-C, so other threads may use futures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
_END = object()


def iterate_in_background(results: Iterable[T]) -> Iterator[T]:
    """Return an iterator of ``results``, which a thread of its own makes ahead, from now on.

    An error of ``results`` is raised in its place. The caller ends ``results``: the thread lives as long as they do.
    """
    made: SimpleQueue[object] = SimpleQueue()

    def make() -> None:
        try:
            for result in results:
                made.put((result,))
            made.put(_END)
        except BaseException as exc:  # noqa: BLE001  the caller raises it
            made.put(exc)

    threading.Thread(target=make, name="background", daemon=True).start()
    return _take(made)


def start_in_background(work: Callable[[], T]) -> Callable[[], T]:
    """Start ``work`` in a thread of its own, and return a function that waits for its result, or raises its error."""
    results = iterate_in_background(work() for _ in range(1))
    return lambda: next(results)


def _take(made: SimpleQueue[object]) -> Iterator[T]:
    while isinstance(found := made.get(), tuple):
        yield found[0]
    if isinstance(found, BaseException):
        try:
            raise found
        finally:
            del found  # the error holds this frame, and would hold itself and all that it refers to
