"""Resident memory of a runtime that runs all day: after every thousand batches, of shapes that never repeat for long.

Each batch is a call of its own, of 1 to 32 texts with 1 to as many words as the model takes.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import runtime
from runtime import console
from runtime.errors import UsageError

_WORDS = ("water", "embedding", "of", "Zürich", "running", "a")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenarios.memory_growth", description=__doc__)
    parser.add_argument("artifact", type=Path, help="a text artifact")
    parser.add_argument("--batches", type=int, default=10_000, help="how many (default: %(default)s)")
    parser.add_argument("--longest", type=int, default=64, help="words of a text at most (default: %(default)s)")
    arguments = parser.parse_args(argv)
    return console.run(lambda: _measure(arguments.artifact, arguments.batches, arguments.longest))


def _measure(artifact: Path, batches: int, longest: int) -> int:
    if batches < 10 or longest < 1:
        raise UsageError("--batches must be 10 or more, --longest 1 or more")
    logging.disable(logging.WARNING)  # of texts that are cut
    model = runtime.load(artifact)
    print(f"{'batches':>8}  resident MiB")
    _print_row("loaded")
    for number, texts in enumerate(_random_batches(batches, longest), start=1):
        model.embed(texts, tower="text")
        if number % (batches // 10) == 0:
            _print_row(number)
    return 0


def _print_row(batches: object) -> None:
    print(f"{batches:>8}  {_resident_mb():12.0f}", flush=True)


def _random_batches(count: int, longest: int) -> Iterator[list[str]]:
    generator = np.random.default_rng(0)
    for _ in range(count):
        lengths = generator.integers(1, longest + 1, generator.integers(1, 33))
        yield [" ".join(generator.choice(_WORDS, length)) for length in lengths]


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.exit(main())
