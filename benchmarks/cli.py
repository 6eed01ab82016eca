"""``python -m benchmarks ARTIFACT... -o REPORT``, and what is made of such reports: ``choose`` and ``compare``."""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from benchmarks.ceilings.measure import measure_ceilings
from benchmarks.contenders.registry import CONTENDERS
from benchmarks.measure.machine import this_machine
from benchmarks.measure.plan import Choices, Plan, make_plan
from benchmarks.measure.rounds import Effort
from benchmarks.measure.run import Settings, check_resumable, find_left, join, measure_plan
from benchmarks.report import Format, write_report
from benchmarks.results.prices import Prices, read_prices
from benchmarks.results.schema import RESULTS_FILE, SCHEMA_VERSION, Results, read_results, write_text
from exporters.progress import Stage, StageDisplay
from runtime import console
from runtime.artifact.manifest import TowerName
from runtime.artifact.reader import read_manifest
from runtime.errors import OutputError, UsageError
from runtime.machine.threads import available_threads

_OTHERS = ("choose", "compare")
_EPILOG = """
python -m benchmarks choose RESULTS... says which machine to take, by results of several;
python -m benchmarks compare OLD NEW says what has become faster or slower. Each has a --help of its own.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what the command line names."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in _OTHERS:
        code: int = import_module(f"benchmarks.{words[0]}").main(words[1:])
        return code
    arguments = _parser().parse_args(words)
    return console.run(lambda: _benchmark(arguments, shlex.join(["python", "-m", "benchmarks", *words])))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure artifacts on this machine, beside torch and what else people use, and write a report.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("artifacts", nargs="+", type=Path, metavar="ARTIFACT", help="folders of artifacts")
    add("-o", "--output", type=Path, required=True, metavar="REPORT", help="folder of the report and results.json")
    add(
        "--format", nargs="+", choices=get_args(Format), default=["html", "md"], help="of the report (default: html md)"
    )
    add("--prices", type=Path, metavar="TOML", help="prices per hour by machine, for the cost of a million embeddings")
    add("--machine", metavar="NAME", help="what to call this machine, as the prices do (default: its CPU and GPUs)")
    add("--weights", nargs="+", default=[], metavar="[NAME=]WEIGHTS", help="what the exports were given, for torch")
    add("--items", nargs="+", default=[], metavar="KIND=PATH", help="your own text, image or mesh items")
    add("--providers", nargs="+", help="execution providers (default: all that are active)")
    add(
        "--contenders",
        nargs="+",
        default=list(CONTENDERS),
        metavar="NAME[:VARIANT]",
        help=f"of {', '.join(CONTENDERS)}",
    )
    add("--batch-sizes", nargs="+", type=int, default=[1, 8, 32], metavar="N", help="items of a call (default: 1 8 32)")
    add("--tokens", nargs="+", type=int, default=[64], metavar="N", help="lengths of texts in the graph (default: 64)")
    add("--stages", nargs="+", choices=["graph", "end_to_end"], default=["graph", "end_to_end"], help="default: both")
    add("--threads", type=int, help="of every contender (default: what this process is allowed)")
    add("--rounds", type=int, default=7, help="in which all take turns, at least (default: %(default)s)")
    add("--seconds", type=float, default=10, help="of measuring a case, at most (default: %(default)s)")
    add("--patience", type=float, default=60, help="seconds lost to a busy host at a piece of work (default: 60)")
    add("--confidence", type=float, default=0.95, help="of intervals (default: %(default)s)")
    add("--precision", type=float, default=0.05, help="half-width of an interval that is enough (default: %(default)s)")
    add("--python", nargs="+", default=[], metavar="WHAT=PYTHON", help="of other environments: openvino, optimum")
    add("--no-ceilings", action="store_true", help="do not measure what the machine can do at most")
    add("--resume", action="store_true", help="go on with what is in REPORT")
    add("--redo-disturbed", action="store_true", help="with --resume: and measure again what the host disturbed")
    add("--force", action="store_true", help="replace what is in REPORT")
    return parser


def _benchmark(arguments: argparse.Namespace, command: str) -> int:
    output: Path = arguments.output
    _check_output(arguments)
    prices = read_prices(arguments.prices) if arguments.prices else None
    effort = _read_effort(arguments)
    settings = Settings(effort=effort, items=_read_items(arguments.items))
    stage = StageDisplay(sys.stderr)
    with stage("verify"):
        plan = make_plan(arguments.artifacts, _read_choices(arguments))
    output.mkdir(parents=True, exist_ok=True)  # before the work, in case that it cannot be
    results = _begin(arguments, plan, effort, command, stage)
    left = find_left(plan, results, redo_disturbed=arguments.redo_disturbed)
    done = 0
    with tqdm(total=len(left), unit="group", disable=None) as bar:

        def keep(so_far: Results) -> None:
            nonlocal results, done
            results, done = so_far, done + 1
            write_text(output / RESULTS_FILE, so_far.to_json())
            bar.update()

        def say(name: str) -> None:
            bar.set_description(name)
            if bar.disable:  # a log has a line for each instead
                print(f"  {name}", file=sys.stderr, flush=True)

        try:
            results = measure_plan(left, results, settings, keep, say)
        except KeyboardInterrupt:
            _write(results, output, arguments.format, prices)
            raise KeyboardInterrupt(
                f"interrupted: {len(left) - done} of {len(plan.groups)} groups are left; "
                "go on by the same command with --resume"
            ) from None
    _write(results, output, arguments.format, prices)
    return 0


def _write(results: Results, output: Path, formats: Sequence[Format], prices: Prices | None) -> None:
    for path in write_report(results, output, tuple(dict.fromkeys(("json", *formats))), prices):
        print(path)


def _check_output(arguments: argparse.Namespace) -> None:
    if arguments.resume and arguments.force:
        raise UsageError("--resume keeps what --force replaces; give one of them")
    if arguments.redo_disturbed and not arguments.resume:
        raise UsageError("--redo-disturbed is of what is in REPORT; give --resume too")
    if (arguments.output / RESULTS_FILE).exists() and not (arguments.resume or arguments.force):
        raise OutputError(f"{arguments.output} holds results; --resume goes on with them, --force replaces them")
    if arguments.output.exists() and not arguments.output.is_dir():
        raise OutputError(f"{arguments.output} is a file; name a folder")


def _read_effort(arguments: argparse.Namespace) -> Effort:
    allowed = available_threads()
    threads = allowed if arguments.threads is None else arguments.threads
    if not 1 <= threads <= allowed:
        raise UsageError(f"--threads is {threads}, it must be from 1 to {allowed}, which this process is allowed")
    if arguments.rounds < 3 or not arguments.seconds > 0 or not arguments.patience >= 0:
        raise UsageError("--rounds must be 3 or more, --seconds above 0, --patience 0 or more")
    if not (0.5 <= arguments.confidence < 1 and 0 < arguments.precision < 1):
        raise UsageError("--confidence must be from 0.5 to below 1, --precision between 0 and 1")
    return Effort(
        threads=threads,
        min_rounds=arguments.rounds,
        seconds=arguments.seconds,
        patience=arguments.patience,
        confidence=arguments.confidence,
        precision=arguments.precision,
    )


def _read_choices(arguments: argparse.Namespace) -> Choices:
    words = list(arguments.weights)
    if len(words) == 1 and "=" not in words[0] and len(arguments.artifacts) == 1:
        words = [f"{read_manifest(arguments.artifacts[0]).name}={words[0]}"]
    return Choices(
        providers=tuple(arguments.providers) if arguments.providers else None,
        batch_sizes=tuple(dict.fromkeys(arguments.batch_sizes)),
        tokens=tuple(arguments.tokens),
        stages=tuple(arguments.stages),
        contenders=tuple(arguments.contenders),
        weights=_pairs(words),
        pythons=_pairs(arguments.python),
    )


def _read_items(words: Sequence[str]) -> dict[str, Path]:
    items = {kind: Path(path) for kind, path in _pairs(words).items()}
    strange = sorted(items.keys() - {*get_args(TowerName)})
    if strange:
        raise UsageError(f"--items names {', '.join(strange)}; kinds of items are {', '.join(get_args(TowerName))}")
    return items


def _pairs(words: Sequence[str]) -> dict[str, str]:
    pairs = dict(word.partition("=")[::2] for word in words)
    if not all(name and value for name, value in pairs.items()):
        raise UsageError(f"{' '.join(words)} is not of the form NAME=VALUE")
    return pairs


def _begin(arguments: argparse.Namespace, plan: Plan, effort: Effort, command: str, stage: Stage) -> Results:
    fresh = Results(
        schema_version=SCHEMA_VERSION,
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        command=command,
        complete=False,
        confidence=effort.confidence,
        precision=effort.precision,
        machine=this_machine(arguments.machine, effort.threads),
        ceilings=None,
        artifacts=plan.artifacts,
        cases=(),
        skipped=plan.skipped,
    )
    if arguments.resume and (arguments.output / RESULTS_FILE).exists():
        found = read_results(arguments.output)
        check_resumable(found, fresh)
        return join(found, fresh)
    if arguments.no_ceilings:
        return fresh
    providers = tuple(dict.fromkeys(provider for subject in plan.subjects for provider in subject.providers))
    with stage("ceilings"):
        return dataclasses.replace(fresh, ceilings=measure_ceilings(effort.threads, providers))
