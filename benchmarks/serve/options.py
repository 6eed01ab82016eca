"""Options of ``python -m benchmarks serve``."""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path
from typing import get_args

from benchmarks.results.prices import add_price_options
from benchmarks.serve.interfaces import Encoding, InterfaceName
from benchmarks.serve.measure import LoadPlan, whole_rate
from benchmarks.serve.workloads import WORKLOADS
from runtime.arguments import (
    ArgumentParser,
    ListAction,
    number,
    parse_cosine,
    parse_count,
    parse_from_0,
    parse_path,
    parse_positive,
)
from runtime.artifact.manifest import TowerName
from runtime.errors import UsageError

MIN_COSINE = 0.999  # of --verify
_REFINEMENTS = 3


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = ArgumentParser(
        prog="python -m benchmarks serve",
        description="Load servers of embeddings with requests, and write a report: throughput against latency, "
        "percentiles by rate, the knee, and the cost of a million items. Any server with OpenAI's or TEI's interface "
        "can be measured. An artifact is served by `python -m runtime serve` for the time of the benchmark.",
    )
    parser.add_argument(
        "servers",
        nargs="+",
        metavar="[NAME=]SERVER",
        help="URLs or artifacts to measure in turns, such as http://127.0.0.1:8080; a URL that ends in /embed speaks "
        "TEI's interface. The first is the one to compare with",
    )
    _add_output_options(parser)
    _add_request_options(parser)
    _add_load_options(parser)
    return parser


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add(
        "-o",
        "--output",
        type=parse_path,
        required=True,
        metavar="REPORT",
        help="Folder for the report and results.json",
    )
    add("--force", action="store_true", help="Replace the results in REPORT")
    add_price_options(add)


def _add_request_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("requests").add_argument
    add("--interface", choices=get_args(InterfaceName), help="Interface of all servers (default: that of each URL)")
    add(
        "--encoding",
        choices=get_args(Encoding),
        default="float",
        help="Encoding of vectors in OpenAI's interface: base64 is what its official clients ask for (default: float)",
    )
    words = partial(add, action="append", default=[])
    words(
        "--model",
        metavar="[NAME=]MODEL",
        help="Model to ask a server for (default: the first that it lists); repeatable",
    )
    words("--header", metavar="NAME:VALUE", help="Header to send, which reports do not show; repeatable")
    add("--api-key-file", type=parse_path, metavar="FILE", help="File with a key to send (default: send no key)")
    words(
        "--pid",
        metavar="[NAME=]PID",
        help="Process id of a server on this machine, to measure its CPU time and memory; repeatable",
    )
    add(
        "--server-options",
        default="",
        metavar="OPTIONS",
        help="Options of `python -m runtime serve` for artifacts, as one word in quotes. --embed uses its provider, "
        "variant and threads, too",
    )
    add(
        "--embed",
        type=parse_path,
        metavar="ARTIFACT",
        help="Artifact that `embed` embeds without a server, to compare with (default: compare with the first server)",
    )
    add(
        "--verify",
        type=parse_path,
        metavar="ARTIFACT",
        help="Artifact whose fp32 graph gives the reference vectors (default: compare only with those of each item "
        "alone)",
    )
    add(
        "--min-cosine",
        type=parse_cosine,
        metavar="C",
        help="Smallest cosine similarity to the vectors of --verify; the exit code is 1 below it (default: "
        f"{MIN_COSINE})",
    )


def _add_load_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("load").add_argument
    integers = partial(add, action=ListAction, type=int, metavar="N")
    seconds = partial(add, type=parse_positive, metavar="S")
    add(
        "--workloads",
        action=ListAction,
        choices=WORKLOADS,
        help="Kinds of items: texts of about 6 to 14 words, mixed or long ones below 256 tokens, photos, or your own "
        "(default: mixed, or own with --items)",
    )
    add(
        "--items",
        type=_own_items,
        metavar="[KIND=]PATH",
        help="Your own items of the kind text, image or mesh, for the workload own; 256 texts or 64 files are drawn at "
        "random (default kind: text)",
    )
    integers("--batch-sizes", default=(1,), help="Numbers of items per request (default: 1)")
    integers("--clients", default=(1, 8, 64), help="Numbers of clients of closed loops (default: 1 8 64)")
    add(
        "--rate",
        action=ListAction,
        type=_rate,
        default=("auto",),
        metavar="R",
        help="Requests per second of open loops, rounded to whole requests in --seconds; auto finds the highest that "
        "each server sustains, and none measures closed loops only (default: auto)",
    )
    add(
        "--refinements",
        type=number(int, "a whole number from 0 up", lambda value: value >= 0),
        metavar="N",
        help="Rates to add between the highest good one and the next, each halving the gap. Good means sustained and, "
        "with --max-p99-ms, within this bound (default: 3)",
    )
    seconds("--max-p99-ms", metavar="MS", help="Bound of the p99, for which rate and cost are reported")
    rounds = "Rounds; all servers take one turn per round (default: 3)"
    add("--rounds", type=parse_count, default=3, metavar="N", help=rounds)
    seconds("--seconds", default=5.0, help="Seconds of each load (default: 5)")
    seconds(
        "--warm-up",
        type=parse_from_0,
        default=1.0,
        help="Seconds of the same load before it, which do not count (default: 1)",
    )
    seconds("--timeout", default=30.0, help="Seconds after which a request counts as unanswered (default: 30)")


def _own_items(text: str) -> tuple[str, Path]:
    """Return kind and path of ``KIND=PATH``, or of a path of texts alone."""
    kind, equals, path = text.partition("=")
    if not equals or "/" in kind or Path(text).exists():  # a path may hold an equals sign, too
        return "text", Path(text)
    if kind not in get_args(TowerName) or not path:
        kinds = ", ".join(get_args(TowerName))
        raise argparse.ArgumentTypeError(
            f"it is {text:.80}, it must be PATH or KIND=PATH with one of the kinds {kinds}"
        )
    return kind, Path(path)


def _rate(text: str) -> float | str:
    return text if text in ("auto", "none") else float(text)


def make_plan(options: argparse.Namespace) -> LoadPlan:
    """Return the loads that the options ask for.

    Raises:
        UsageError: A number of a list is out of range, ``--rate`` mixes words and numbers, or an option has no effect.
    """
    rates = options.rate
    words = {rate for rate in rates if isinstance(rate, str)}
    if words and len(rates) > 1:
        raise UsageError(f"--rate is {' '.join(map(str, rates))}; give auto or none alone, or numbers")
    refinements = options.refinements
    if words == {"none"} and (refinements or options.max_p99_ms is not None or options.prices):
        raise UsageError("--refinements, --max-p99-ms and --prices are for open loops; leave them out, or --rate none")
    numbers = [rate for rate in rates if not isinstance(rate, str)]
    if min(*options.batch_sizes, *options.clients) < 1 or not all(0 < rate < math.inf for rate in numbers):
        raise UsageError("--batch-sizes and --clients must be whole numbers from 1 up, and --rate above 0")
    slow = [rate for rate in numbers if rate * options.seconds < 1]
    if slow:
        raise UsageError(
            f"--rate {min(slow):g} is less than one request in --seconds {options.seconds:g}; raise --seconds to "
            f"{math.ceil(1 / min(slow))}"
        )
    whole = {whole_rate(rate, options.seconds) for rate in numbers}
    return LoadPlan(
        sizes=tuple(dict.fromkeys(options.batch_sizes)),
        clients=tuple(dict.fromkeys(options.clients)),
        rates=None if words == {"auto"} else tuple(sorted(whole)),
        refinements=0 if words == {"none"} else _REFINEMENTS if refinements is None else refinements,
        rounds=options.rounds,
        seconds=options.seconds,
        warm_up_s=options.warm_up,
        timeout_s=options.timeout,
        max_p99_ms=options.max_p99_ms,
    )


def check_used(options: argparse.Namespace, has_artifacts: bool) -> None:
    """Check that ``--items``, ``--min-cosine`` and ``--server-options`` have an effect.

    Raises:
        UsageError: One has none.
    """
    if options.items and "own" not in (options.workloads or ("own",)):
        raise UsageError("--items is for the workload own; add own to --workloads")
    if options.min_cosine is not None and options.verify is None:
        raise UsageError("--min-cosine is for --verify; give --verify ARTIFACT too")
    if options.server_options and not (has_artifacts or options.embed):
        raise UsageError("--server-options is for artifacts and --embed; start the server of a URL with these options")
