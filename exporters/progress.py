"""Show the stages of an export with their times."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TextIO

Stage = Callable[[str], AbstractContextManager[None]]


def silent(name: str) -> AbstractContextManager[None]:
    """Show nothing of the stage ``name``."""
    return nullcontext()


class StageDisplay:
    """A printer of one line for each stage. A terminal also shows the running stage."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        """Write to ``stream``."""
        self._stream = stream

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Show the stage ``name`` around the block, and mark it as failed if the block fails."""
        live = self._stream.isatty()
        if live:
            print(f"  {name:<20} ...", end="\r", file=self._stream, flush=True)
        start = time.perf_counter()
        outcome = ""
        try:
            yield
        except BaseException as exc:
            outcome = "interrupted" if isinstance(exc, KeyboardInterrupt) else "failed"
            raise
        finally:
            print(f"  {name:<20} {time.perf_counter() - start:6.1f} s  {outcome}".rstrip(), file=self._stream)
