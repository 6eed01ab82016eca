"""Show the stages of an export with their times, and the time left in a stage whose steps are known."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TextIO, TypeVar, cast

from runtime.console import progress_bar

Stage = Callable[[str], AbstractContextManager[None]]
T = TypeVar("T")


def silent(name: str) -> AbstractContextManager[None]:
    """Show nothing of the stage ``name``."""
    return nullcontext()


def expect(steps: int) -> None:
    """Add ``steps`` to those that the running stage has before it. A terminal then shows a bar with the time left."""
    if stage := _RUNNING.get():
        stage.expect(steps)


def track(items: Iterable[T], steps: Callable[[T], int] = lambda item: 1) -> Iterator[T]:
    """Yield ``items``. The running stage has taken the ``steps`` of an item when the next one is asked for."""
    for item in items:
        yield item
        if stage := _RUNNING.get():
            stage.advance(steps(item))


def step_counter() -> Callable[[int], object]:
    """Return a function that counts steps of the running stage, also from other threads."""
    stage = _RUNNING.get()
    return stage.advance if stage else lambda steps: None


class _RunningStage:
    """A stage on a terminal: its name, then a bar once the number of its steps is known."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name, self._bar = name, cast(Any, None)
        print(f"  {name:<20} ...", end="\r", file=stream, flush=True)

    def expect(self, steps: int) -> None:
        if self._bar is None:
            self._bar = progress_bar(total=steps, unit="step", label=f"  {self._name}", leave=False)
        else:
            self._bar.total += steps
            self._bar.refresh()

    def advance(self, steps: int) -> None:
        if self._bar is not None:
            self._bar.total = max(self._bar.total, self._bar.n + steps)
            self._bar.update(steps)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


_RUNNING: ContextVar[_RunningStage | None] = ContextVar("running_stage", default=None)


class StageDisplay:
    """A printer of one line for each stage. A terminal also shows the running stage."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        """Write to ``stream``."""
        self._stream = stream

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Show the stage ``name`` around the block, and mark it as failed if the block fails."""
        running = _RunningStage(name, self._stream) if self._stream.isatty() else None
        token = _RUNNING.set(running)
        start = time.perf_counter()
        outcome = ""
        try:
            yield
        except BaseException as exc:
            outcome = "interrupted" if isinstance(exc, KeyboardInterrupt) else "failed"
            raise
        finally:
            _RUNNING.reset(token)
            if running is not None:
                running.close()
            print(f"  {name:<20} {time.perf_counter() - start:6.1f} s  {outcome}".rstrip(), file=self._stream)
