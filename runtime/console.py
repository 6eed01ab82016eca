"""Exit codes, one-line errors, progress bars and plain tables for all command lines."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from runtime.atomic_write import NO_SPACE
from runtime.errors import EmbeddingBackbonesError, UsageError

FAILURE = 1
WRONG_USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, the convention of shells


def run(command: Callable[[], int]) -> int:
    """Run ``command`` and return its exit code. Print an error of this project as one line on standard error."""
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that are not valid text
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = command()
        sys.stdout.flush()
    except EmbeddingBackbonesError as exc:
        print(printable(f"error: {exc}"), file=sys.stderr)
        return exit_code(exc)
    except KeyboardInterrupt as exc:
        print(str(exc) or "interrupted", file=sys.stderr)
        return INTERRUPTED
    except (OSError, MemoryError, RuntimeError) as exc:
        way_out = _find_way_out(exc)
        if way_out is None:
            raise
        if not isinstance(exc, BrokenPipeError):  # the reader, such as `head`, has closed the pipe
            print(f"error: {str(exc) or type(exc).__name__}{way_out}", file=sys.stderr)
        with suppress(OSError):  # no file can be opened
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's flush at exit fails
        return FAILURE
    return code


def _find_way_out(exc: Exception) -> str | None:
    """Return what the user can do about an error of the system; ``None`` if it is another error."""
    if isinstance(exc, MemoryError):
        return "; free some memory, or raise its limit"
    if isinstance(exc, OSError):
        if exc.errno == errno.EMFILE:
            return "; raise the limit of open files (`ulimit -n`)"
        if exc.errno == errno.ENFILE:
            return "; close other programs, or raise the limit of the machine (`sysctl fs.file-max`)"
        if exc.errno in NO_SPACE:
            return "; free some disk space, also in the folder of temporary files (TMPDIR)"
        return "; set TMPDIR to a folder that can be written" if "temporary directory" in str(exc) else ""
    if "start new thread" in str(exc):
        return "; raise the limit of processes (`ulimit -u`, or that of the container)"
    return None


def exit_code(error: EmbeddingBackbonesError) -> int:
    """Return the exit code of a command that ends with ``error``."""
    return WRONG_USAGE if isinstance(error, UsageError) else FAILURE


def _open_closed_streams() -> None:
    """Open the null device in place of closed standard streams, which Python sets to ``None``: ``nohup ... <&- >&-``.

    It takes their file descriptors. Otherwise the next file would, and native libraries would log into that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  open until the process ends


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Let `kill` and `docker stop` end a command like Ctrl-C, with all cleanup."""
    raise KeyboardInterrupt


def progress_bar(
    *, total: int | None, unit: str, label: str = "", initial: int = 0, hidden: bool | None = False, leave: bool = True
) -> Any:
    """Return a tqdm progress bar on standard error; the caller closes it.

    ``initial`` units are done already. ``hidden=None`` hides the bar unless standard error is a terminal.
    """
    from tqdm import tqdm  # imported late, because most commands draw no bar

    return tqdm(total=total, unit=unit, desc=label or None, initial=initial, disable=hidden, leave=leave)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table with left-aligned columns, each as wide as its widest cell on a terminal.

    Characters that could drive the terminal, and line ends, are escaped.
    """
    cells = [[printable_line(str(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def printable(text: str) -> str:
    r"""Return ``text`` with escapes in place of the characters that could drive a terminal, such as ``\x1b``.

    Line ends stay. A name in a file from a stranger could otherwise hide or change what is printed.
    """
    return "".join(
        character if _is_harmless(character) or character == "\n" else ascii(character)[1:-1] for character in text
    )


def printable_line(text: str) -> str:
    """Return :func:`printable` text on one line, with line ends as escapes, too."""
    return printable(text).replace("\n", "\\n")


def _is_harmless(character: str) -> bool:
    """Return whether a character is printed as text. Spaces and joiners are, which ``isprintable`` leaves out."""
    return character.isprintable() or character in "\u200c\u200d" or unicodedata.category(character) == "Zs"


def _width(cell: str) -> int:
    """Return the width of ``cell`` on a terminal: two columns for a wide character, none for a combining one.

    Source: https://www.unicode.org/reports/tr11/
    """
    combining = ("Mn", "Me", "Cf")
    return sum(
        0 if unicodedata.category(character) in combining else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in cell
    )
