"""What the command lines of all packages share: exit codes, one-line errors, plain tables."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from runtime.errors import EmbeddingBackbonesError, UsageError

FAILURE = 1
WRONG_USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def run(command: Callable[[], int]) -> int:
    """Returns the exit code of ``command``, having printed an error of ours as one line on standard error."""
    _tolerate_odd_names()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = command()
        sys.stdout.flush()
    except EmbeddingBackbonesError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return WRONG_USAGE if isinstance(exc, UsageError) else FAILURE
    except KeyboardInterrupt as exc:
        print(str(exc) or "interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        _abandon_stdout()
        return FAILURE
    except OSError as exc:
        _abandon_stdout()
        print(f"error: {exc}", file=sys.stderr)
        return FAILURE
    return code


def _tolerate_odd_names() -> None:
    """Lets a file name that is no valid text be printed, escaped."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Lets `kill` and `docker stop` end a command as Ctrl-C does: with everything cleaned up."""
    raise KeyboardInterrupt


def _abandon_stdout() -> None:
    """Keeps the interpreter from flushing, at its exit, into what cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def progress_bar(
    *, total: int | None, unit: str, label: str = "", initial: int = 0, hidden: bool | None = False
) -> Any:
    """Return a tqdm progress bar on standard error; the caller closes it.

    Args:
        total: Number of units; ``None`` if it is unknown.
        unit: Name of one of them.
        label: Text before the bar.
        initial: Units that are already done.
        hidden: Whether to draw nothing; ``None`` hides the bar unless standard error is a terminal.
    """
    from tqdm import tqdm  # only a command that draws a bar pays for the import

    return tqdm(total=total, unit=unit, desc=label or None, initial=initial, disable=hidden)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns left-aligned columns under ``header``, each as wide on a terminal as its widest cell."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def _width(cell: str) -> int:
    """Returns the columns that a terminal gives to ``cell``: two for wide characters, none for those that combine.

    Source: https://www.unicode.org/reports/tr11/
    """
    combining = ("Mn", "Me", "Cf")
    return sum(
        0 if unicodedata.category(character) in combining else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in cell
    )
