"""Run ``python -m benchmarks choose``: choose hardware by cost from results of several machines."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from benchmarks.choose.offers import find_offers
from benchmarks.choose.selection import Requirements, choose_hardware
from benchmarks.choose.text import as_record, as_text
from benchmarks.results.prices import read_prices
from benchmarks.results.schema import read_results
from runtime import console
from runtime.arguments import number, parse_cosine
from runtime.artifact.manifest import TowerName


def main(arguments: Sequence[str]) -> int:
    """Print the choice. Return 0, or 1 if nothing meets the requirements."""
    return _choose(build_parser().parse_args(arguments))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks choose",
        description="Choose machine, variant and batch size by cost, from results of several machines. The number of "
        "instances comes from a simulated queue. An instance is one process with all threads of its machine; when it "
        "is free, it embeds all waiting items as one batch. The simulation leaves out HTTP and the server's own "
        "batching.",
    )
    add = parser.add_argument
    above_zero = number(float, "a number above 0, and at most 1e15", lambda value: 0 < value <= 1e15)
    add("results", nargs="+", type=Path, metavar="RESULTS", help="Files results.json, or report folders with one")
    add("--prices", type=Path, required=True, help="Price file in the format of docs/prices.example.toml (required)")
    add(
        "--max-p95-ms",
        type=above_zero,
        required=True,
        metavar="MS",
        help="Limit of the 95th percentile of the response time in ms, waiting included (required)",
    )
    add("--per-day", type=above_zero, required=True, metavar="N", help="Items per day, such as 50e6 (required)")
    add(
        "--min-cosine",
        type=parse_cosine,
        default=0.999,
        metavar="C",
        help="Smallest allowed cosine similarity of the worst item to torch (default: 0.999)",
    )
    add(
        "--peak",
        type=number(float, "a number from 1 to 1000", lambda value: 1 <= value <= 1000),
        default=2.0,  # traffic that follows the waking hours of people peaks at about twice its daily mean
        metavar="FACTOR",
        help="Rate of the busiest time of the day as a multiple of the daily mean; 1 for a constant load (default: 2)",
    )
    add("--artifact", metavar="NAME", help="Choose for this artifact only (default: for each artifact)")
    add("--tower", choices=get_args(TowerName), help="Choose for this tower only (default: for each tower)")
    add("--json", action="store_true", help="Print the choice as JSON (default: as text)")
    return parser


def _choose(options: argparse.Namespace) -> int:
    prices = read_prices(options.prices)
    requirements = Requirements(
        per_day=options.per_day, peak=options.peak, max_p95_ms=options.max_p95_ms, min_cosine=options.min_cosine
    )
    files = [(path, read_results(path)) for path in options.results]
    offers, warnings = find_offers(files, options.artifact, options.tower)
    choices = {task: choose_hardware(each, requirements, prices) for task, each in offers.items()}
    if options.json:
        rates = {"mean_per_s": requirements.mean_per_s, "peak_per_s": requirements.peak_per_s}
        document = {
            "demand": asdict(requirements) | rates,
            "prices": {"date": prices.date, "currency": prices.currency},
            "choices": [as_record(task, choice, requirements) for task, choice in choices.items()],
            "warnings": warnings,
        }
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        parts = ["\n".join(f"warning: {warning}" for warning in warnings)] if warnings else []
        parts += [as_text(task, choice, requirements, prices) for task, choice in choices.items()]
        print("\n\n".join(parts))
    return 0 if all(choice.plans for choice in choices.values()) else console.FAILURE
