"""Ask for memory before it is taken, where only the content of an item tells how much that is.

Everything is granted outside of :func:`limit_memory`, which the server uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LIMIT: ContextVar[int | None] = ContextVar("limit", default=None)


class TooLittleMemoryError(Exception):
    """An item asks for more memory than the limit.

    Attributes:
        needed_bytes: The memory that it asks for.
    """

    def __init__(self, needed_bytes: int) -> None:
        """Refuse ``needed_bytes``."""
        self.needed_bytes = needed_bytes
        super().__init__(f"it needs up to {needed_bytes >> 20} MiB of memory; give a smaller one")


@contextmanager
def limit_memory(size_bytes: int) -> Iterator[None]:
    """Let the items of this thread ask for at most ``size_bytes``."""
    token = _LIMIT.set(size_bytes)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def ask_for_memory(size_bytes: int) -> None:
    """Announce that the arrays of an item will take up to ``size_bytes``, all together.

    Raises:
        TooLittleMemoryError: It is more than the limit.
    """
    limit = _LIMIT.get()
    if limit is not None and size_bytes > limit:
        raise TooLittleMemoryError(size_bytes)
