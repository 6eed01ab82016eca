"""Write a file whole or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import OutputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, beside ``path``. It replaces ``path`` if the block succeeds; else it is removed.

    Raises:
        OSError: The file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        with replacing(path) as partial:
            partial.write_text(text, "utf-8")
    except OSError as exc:
        raise OutputError(f"cannot write {path} ({exc.strerror}); free some disk space or fix its permissions") from exc
