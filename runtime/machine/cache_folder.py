"""Find the cache folder of the current user."""

from __future__ import annotations

import os
from pathlib import Path

from runtime.errors import UsageError

CACHE_VARIABLE = "EMBEDDING_BACKBONES_CACHE"


def default_cache(name: str) -> Path:
    """Return the user's cache folder for ``name``. It need not exist.

    Raises:
        RuntimeError: The user has no home folder.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache")
    return Path(os.environ.get(CACHE_VARIABLE) or Path(home, "embedding-backbones"), name).expanduser()


def usable_cache(name: str, folder: str | None) -> str | None:
    """Make and return ``folder``, or the user's cache folder for ``name``; ``None`` if the latter is not writable.

    Raises:
        UsageError: ``folder`` is not writable.
    """
    try:
        place = Path(folder).expanduser() if folder else default_cache(name)
        place.mkdir(parents=True, exist_ok=True)
        writable = os.access(place, os.W_OK)
    except (OSError, RuntimeError):  # a read-only file system, or a user without a home folder
        writable = False
    if folder and not writable:
        raise UsageError(f"the cache folder {folder} cannot be written; name another one")
    return str(place) if writable else None
