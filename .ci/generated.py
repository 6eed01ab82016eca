"""A file that this project generates: written by ``make format``, compared by ``make check``."""

from __future__ import annotations

import sys
from pathlib import Path


def write_or_check(path: Path, text: str) -> int:
    """Write ``text`` to ``path``; with ``--check`` on the command line, compare instead, and return 1 if it differs."""
    if "--check" not in sys.argv:
        path.write_text(text, "utf-8")
    elif not path.exists() or path.read_text("utf-8") != text:
        sys.stderr.write(f"{path.name} is out of date; run `make format`\n")
        return 1
    return 0
