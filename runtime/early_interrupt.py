"""Let Ctrl-C end a command line without a traceback while its modules are still imported.

``runtime`` imports this first. ``python -m`` calls a program ``-m`` until it has imported the program's package.
"""

from __future__ import annotations

import signal
import sys

_PROGRAMS = ("runtime", "exporters")


def _is_command_line() -> bool:
    words = sys.orig_argv
    return sys.argv[:1] == ["-m"] and "-m" in words[:-1] and words[words.index("-m") + 1] in _PROGRAMS


def restore() -> None:
    """Let Ctrl-C raise :class:`KeyboardInterrupt` again."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if _is_command_line() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
