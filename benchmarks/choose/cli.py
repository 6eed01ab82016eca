"""Run ``python -m benchmarks choose``: choose machines by cost from reports of several machines."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks.choose.candidates import Job, Service, choose_machines
from benchmarks.choose.jobs import find_jobs
from benchmarks.choose.services import find_services
from benchmarks.choose.text import as_record, as_text
from benchmarks.results.prices import read_prices
from runtime import console
from runtime.arguments import ArgumentParser, number, parse_cosine, parse_path
from runtime.errors import UsageError


def main(arguments: Sequence[str]) -> int:
    """Print the choice. Return 0, or 1 if nothing meets the requirements."""
    return _choose(build_parser().parse_args(arguments))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        prog="python -m benchmarks choose",
        description="Choose machine, variant and number of machines by cost, from reports of several machines. For a "
        "service, give --rate and --max-p99-ms, and reports of `python -m benchmarks serve`. For a job, give --count "
        "and --hours, and reports of `python -m benchmarks ARTIFACT`. The exit code is 1 if nothing meets the "
        "requirements.",
    )
    add = parser.add_argument
    above_zero = number(float, "a number above 0, and at most 1e15", lambda value: 0 < value <= 1e15)
    add("reports", nargs="+", type=parse_path, metavar="REPORT", help="Report folders, or their files results.json")
    add(
        "--prices",
        type=parse_path,
        required=True,
        help="Price file in the format of docs/prices.example.toml (required)",
    )
    add("--rate", type=above_zero, metavar="N", help="Requests per second at the peak, for a service")
    add("--max-p99-ms", type=above_zero, metavar="MS", help="Bound of the p99 of the latency, for a service")
    add("--count", type=above_zero, metavar="N", help="Items to embed, such as 5e6, for a job")
    add("--hours", type=above_zero, metavar="H", help="Hours in which the job must end")
    add(
        "--min-cosine",
        type=parse_cosine,
        default=0.999,
        metavar="C",
        help="Smallest allowed cosine similarity of the worst item: to the vectors of --verify for a service, and to "
        "torch for a job (default: 0.999)",
    )
    add("--artifact", metavar="NAME", help="Choose for this artifact only (default: for each artifact)")
    add("--json", action="store_true", help="Print the choice as JSON (default: as text)")
    return parser


def _choose(options: argparse.Namespace) -> int:
    demand, prices = _read_demand(options), read_prices(options.prices)
    if isinstance(demand, Service):
        tasks, warnings = find_services(options.reports, demand, options.artifact)
    else:
        tasks, warnings = find_jobs(options.reports, options.artifact)
    choices = {task: choose_machines(each, demand, options.min_cosine, prices) for task, each in tasks.items()}
    if options.json:
        document = {
            "demand": asdict(demand) | {"min_cosine": options.min_cosine},
            "prices": {"date": prices.date, "currency": prices.currency},
            "choices": [as_record(task, choice) for task, choice in choices.items()],
            "warnings": warnings,
        }
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        parts = ["\n".join(f"warning: {warning}" for warning in warnings)] if warnings else []
        parts += [as_text(task, choice, demand, prices) for task, choice in choices.items()]
        print("\n\n".join(parts))
    return 0 if any(choice.plans for choice in choices.values()) else console.FAILURE


def _read_demand(options: argparse.Namespace) -> Service | Job:
    """Return the demand.

    Raises:
        UsageError: The options are not those of one demand.
    """
    service, job = (options.rate, options.max_p99_ms), (options.count, options.hours)
    if None not in service and job == (None, None):
        return Service(rate=options.rate, max_p99_ms=options.max_p99_ms)
    if None not in job and service == (None, None):
        return Job(count=options.count, hours=options.hours)
    raise UsageError("give --rate and --max-p99-ms for a service, or --count and --hours for a job")
