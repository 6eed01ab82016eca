"""Find installed packages without importing them."""

from __future__ import annotations

import importlib.metadata


def package_version(name: str) -> str | None:
    """Return the version of an installed package; ``None`` if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
