"""The content of a folder, to see that a command left it as it was."""

from __future__ import annotations

from pathlib import Path


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of each file in ``folder``, by its name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
