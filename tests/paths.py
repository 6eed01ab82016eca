"""The root of the repository, for tests that read its files or run its code in another process."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
