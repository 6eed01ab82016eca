"""Measure the growth of resident memory over many batches of random shapes: ``python -m benchmarks memory``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import runtime
from benchmarks.measure.cpu_time import resident_bytes
from runtime.arguments import ArgumentParser, number, parse_count, parse_path
from runtime.errors import EmbeddingBackbonesError
from runtime.inference.truncation import without_truncation_warning

_WORDS = ("water", "embedding", "of", "Zürich", "running", "a")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m benchmarks memory``."""
    parser = ArgumentParser(
        prog="python -m benchmarks memory",
        description="Measure the growth of resident memory of a long-running process. Each batch is one call with 1 to "
        "32 texts of random length, so that shapes rarely repeat. The table has a row for each tenth of the batches.",
    )
    parser.add_argument("artifact", type=parse_path, metavar="ARTIFACT", help="Folder of a text artifact")
    from_10 = number(int, "a whole number from 10 up", lambda value: value >= 10)
    add = parser.add_argument
    add("--batches", type=from_10, default=10_000, metavar="N", help="Number of batches (default: %(default)s)")
    add("--longest", type=parse_count, default=64, metavar="N", help="Maximum words per text (default: %(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    options = build_parser().parse_args(arguments)
    return _measure(options.artifact, options.batches, options.longest)


def _measure(artifact: Path, batches: int, longest: int) -> int:
    model = runtime.load(artifact)
    print(f"{'batches':>8}  resident MiB")
    _print_row("loaded")
    with without_truncation_warning():
        for number, texts in enumerate(random_batches(batches, longest), start=1):
            model.embed(texts, tower="text")
            if 10 * number // batches > 10 * (number - 1) // batches:
                _print_row(number)
    return 0


def _print_row(batches: object) -> None:
    resident = resident_bytes(os.getpid())
    if resident is None:
        raise EmbeddingBackbonesError("this system does not tell the memory of this process; measure on another one")
    print(f"{batches:>8}  {resident / 2**20:12.0f}", flush=True)


def random_batches(count: int, longest: int) -> Iterator[list[str]]:
    """Yield ``count`` batches of 1 to 32 texts of up to ``longest`` words, always the same ones."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        lengths = generator.integers(1, longest + 1, generator.integers(1, 33))
        yield [" ".join(generator.choice(_WORDS, length)) for length in lengths]
