"""Run commands in this process."""

from __future__ import annotations

from benchmarks.cli import main


def run_command(*words: str) -> int:
    """Run ``python -m benchmarks`` with ``words``, and return the exit code, also of words that argparse refuses."""
    try:
        return main(words)
    except SystemExit as exc:
        return int(exc.code or 0)
