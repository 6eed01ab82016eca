"""``python -m benchmarks choose``: how many of which machine, from what was measured on several.

Items arrive at random and wait their turn, so that the number of instances comes from a simulated queue: see
:mod:`benchmarks.choose.queueing`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from benchmarks.choose.offers import Job, find_offers
from benchmarks.choose.selection import Choice, Demand, choose
from benchmarks.choose.text import as_record, as_text
from benchmarks.results.prices import Prices, read_prices
from benchmarks.results.schema import read_results
from runtime import console
from runtime.artifact.manifest import TowerName

_PEAK = 2.0  # people are awake by day: traffic that rises and falls with it is at some twice its mean at noon


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what to take; returns 0, 1 if nothing keeps the bounds or a file is wrong, or 2 for wrong usage."""
    arguments = build_parser().parse_args(argv)
    return console.run(lambda: _choose(arguments))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks choose",
        description="Choose machine, variant and batch size by cost, from results of several machines. Each instance "
        "is one process with all threads of its machine; when it is free it embeds what waits, as one batch.",
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="results.json, or a report's folder")
    parser.add_argument("--prices", type=Path, required=True, help="price file, such as docs/prices.example.toml")
    parser.add_argument(
        "--max-p95-ms", type=_above_zero, required=True, metavar="MS", help="of 95 in 100 responses, waiting included"
    )
    parser.add_argument("--per-day", type=_above_zero, required=True, metavar="N", help="items a day, such as 50e6")
    parser.add_argument(
        "--min-cosine", type=_cosine, default=0.999, metavar="C", help="of the worst item to torch (default: 0.999)"
    )
    parser.add_argument(
        "--peak",
        type=_at_least_one,
        default=_PEAK,
        metavar="F",
        help="the busiest time of the day, for which instances are counted, as a multiple of its mean (default: 2, as "
        "where people sleep at night; 1 for a load that never changes)",
    )
    parser.add_argument("--artifact", metavar="NAME", help="the only artifact (default: each is chosen for)")
    parser.add_argument("--tower", choices=get_args(TowerName), help="the only tower")
    parser.add_argument("--json", action="store_true", help="print the choice for machines")
    return parser


def _choose(arguments: argparse.Namespace) -> int:
    prices = read_prices(arguments.prices)
    demand = Demand(
        per_day=arguments.per_day,
        peak=arguments.peak,
        max_p95_ms=arguments.max_p95_ms,
        min_cosine=arguments.min_cosine,
    )
    files = [(path, read_results(path)) for path in arguments.results]
    offers, warnings = find_offers(files, arguments.artifact, arguments.tower)
    choices = {job: choose(each, demand, prices) for job, each in offers.items()}
    print((_as_json if arguments.json else _as_text)(choices, demand, prices, warnings))
    return 0 if all(choice.plans for choice in choices.values()) else console.FAILURE


def _as_text(choices: dict[Job, Choice], demand: Demand, prices: Prices, warnings: Sequence[str]) -> str:
    parts = ["\n".join(f"warning: {warning}" for warning in warnings)] if warnings else []
    return "\n\n".join([*parts, *(as_text(job, choice, demand, prices) for job, choice in choices.items())])


def _as_json(choices: dict[Job, Choice], demand: Demand, prices: Prices, warnings: Sequence[str]) -> str:
    document = {
        "demand": asdict(demand) | {"mean_per_s": demand.mean_per_s, "peak_per_s": demand.peak_per_s},
        "prices": {"date": prices.date, "currency": prices.currency},
        "choices": [as_record(job, choice, demand) for job, choice in choices.items()],
        "warnings": list(warnings),
    }
    return json.dumps(document, indent=1, allow_nan=False)


def _above_zero(text: str) -> float:
    number = _number(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return number


def _at_least_one(text: str) -> float:
    number = _number(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1, which is the mean of the day")
    return number


def _cosine(text: str) -> float:
    number = _number(text)
    if not -1 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no cosine, which is from -1 to 1")
    return number


def _number(text: str) -> float:
    """Returns a finite number.

    Raises:
        argparse.ArgumentTypeError: ``text`` is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return number
