"""Command line of ``run``: measure artifacts, and write a report."""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar, get_args

from benchmarks.ceilings.measure import measure_ceilings
from benchmarks.contenders.environment import survey
from benchmarks.contenders.registry import CONTENDERS
from benchmarks.measure.machine import this_machine
from benchmarks.measure.plan import BenchmarkPlan, PlanOptions, make_plan
from benchmarks.measure.rounds import TimingOptions
from benchmarks.measure.run import check_resumable, find_remaining, measure_plan, merge_results
from benchmarks.measure.workload import Items, load_own_items
from benchmarks.report.write import Format, make_folder, write_report
from benchmarks.results.prices import Prices, add_price_options, read_prices
from benchmarks.results.schema import RESULTS_FILE, SCHEMA_VERSION, PlanRecord, Results, read_results
from exporters.progress import Stage, StageDisplay
from runtime import console
from runtime.arguments import ArgumentParser, ListAction, number, parse_from_0, parse_path, parse_positive
from runtime.artifact.manifest import TowerName
from runtime.artifact.reader import read_manifest
from runtime.atomic_write import write_text
from runtime.errors import EmbeddingBackbonesError, OutputError, UsageError
from runtime.machine.threads import available_threads
from runtime.session.providers import ProviderName

T = TypeVar("T")


def main(arguments: Sequence[str]) -> int:
    """Run the command with command-line arguments, and return the exit code."""
    options = build_parser().parse_args(arguments)
    return _benchmark(options, shlex.join(["python", "-m", "benchmarks", *arguments]))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command ``run``."""
    parser = ArgumentParser(
        prog="python -m benchmarks run",
        description="Measure artifacts on this machine, with torch and other libraries beside the runtime, and write a "
        "report.",
    )
    _add_output_options(parser)
    _add_plan_options(parser)
    _add_timing_options(parser)
    return parser


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "artifacts", nargs="+", type=parse_path, metavar="ARTIFACT", help="Folders of the artifacts to measure"
    )
    add = parser.add_argument_group("output").add_argument
    flag = partial(add, action="store_true")
    add(
        "-o",
        "--output",
        type=parse_path,
        required=True,
        metavar="REPORT",
        help="Folder for the report and results.json; it is created if it does not exist",
    )
    add(
        "--format",
        action=ListAction,
        choices=get_args(Format),
        default=("html", "md"),
        help="Formats of the report; results.json is always written (default: html md)",
    )
    flag(
        "--resume",
        help="Continue the run in REPORT with the same options: measure what is missing, and again what failed",
    )
    flag("--redo-disturbed", help="With --resume, also repeat cases that the host of the virtual machine disturbed")
    flag("--force", help="Replace the results in REPORT")
    add_price_options(add)


def _add_plan_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("cases to measure").add_argument
    pairs = partial(add, nargs="+", action="extend", default=[])
    numbers = partial(add, action=ListAction, type=int, metavar="N")
    pairs(
        "--weights",
        metavar="[NAME=]WEIGHTS",
        help="Value of --weights at export, by artifact name, from which torch loads the model (default: known only "
        "for pretrained and random weights)",
    )
    pairs(
        "--items",
        metavar="KIND=PATH",
        help="Your own items of the kind text, image or mesh, of which 256 texts or 64 files are drawn at random. End "
        "to end, 16 of all sizes are timed (default: built-in items)",
    )
    add(
        "--providers",
        action=ListAction,
        choices=get_args(ProviderName),
        help="Execution providers to measure (default: all active providers)",
    )
    add(
        "--contenders",
        action=ListAction,
        default=tuple(CONTENDERS),
        metavar="NAME[:VARIANT]",
        help=f"Libraries to measure (default: {' '.join(CONTENDERS)})",
    )
    numbers("--batch-sizes", default=(1, 8, 32), help="Numbers of items per call (default: 1 8 32)")
    numbers("--tokens", default=(64,), help="Lengths of texts at the stage graph (default: 64)")
    add(
        "--stages",
        action=ListAction,
        choices=["graph", "end_to_end"],
        default=("graph", "end_to_end"),
        help="Stages to measure: graph takes arrays, end_to_end takes texts or files (default: both)",
    )
    pairs(
        "--python",
        metavar="WHAT=PYTHON",
        help="Python interpreters of other environments, such as openvino=/venv/bin/python or optimum=... (default: "
        "this one)",
    )
    add("--no-ceilings", action="store_true", help="Do not measure the limits of the machine")


def _add_timing_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("timing").add_argument
    add("--threads", type=int, metavar="N", help="Threads of every contender (default: all that this process may use)")
    add(
        "--rounds",
        type=number(int, "a whole number from 3 up", lambda value: value >= 3),
        default=7,
        metavar="N",
        help="Minimum number of rounds; all contenders take one turn per round (default: 7)",
    )
    seconds = partial(add, metavar="S")
    seconds("--seconds", type=parse_positive, default=10, help="Maximum seconds to measure each case (default: 10)")
    seconds(
        "--patience",
        type=parse_from_0,
        default=60,
        help="Maximum seconds to wait for a busy host, per group of cases (default: 60)",
    )
    add(
        "--confidence",
        type=number(float, "a number from 0.5 to below 1", lambda value: 0.5 <= value < 1),
        default=0.95,
        metavar="LEVEL",
        help="Confidence level of the intervals (default: %(default)s)",
    )
    add(
        "--half-width",
        type=number(float, "a number between 0 and 1", lambda value: 0 < value < 1),
        default=0.05,
        metavar="SHARE",
        help="Stop when the confidence interval of the time is within +/- this fraction of it. The time is the mean "
        "end to end, and the median for the graph alone (default: %(default)s)",
    )


def _benchmark(arguments: argparse.Namespace, command: str) -> int:
    output: Path = arguments.output
    _check_output(arguments)
    prices = read_prices(arguments.prices) if arguments.prices else None
    timing = _timing_options(arguments)
    options = _plan_options(arguments)
    paths = _item_paths(arguments.items)
    stage = StageDisplay(sys.stderr)
    with stage("verify"):
        plan = make_plan(arguments.artifacts, options)
        own_items = _load_items(paths, plan)
    make_folder(output)  # an error here must come before the measurements
    results = _begin(arguments, plan, timing, plan.record(options, timing, own_items), command, stage)
    remaining = find_remaining(plan, results, redo_disturbed=arguments.redo_disturbed)
    done = 0
    try:
        with console.progress_bar(total=len(remaining), unit="group", hidden=None) as bar:

            def save(so_far: Results) -> None:
                nonlocal results, done
                results, done = so_far, done + 1
                if so_far.cases:  # without any, the results that --force replaces stay
                    write_text(output / RESULTS_FILE, so_far.to_json())
                bar.update()

            def announce(name: str) -> None:
                bar.set_description(name)
                if bar.disable:  # a log gets one line per step instead
                    print(f"  {name}", file=sys.stderr, flush=True)

            results = measure_plan(remaining, results, timing, own_items, save, announce)
    except KeyboardInterrupt:
        resume = f"continue with the same command and --resume{' instead of --force' * arguments.force}"
        way_out = resume if results.cases else "no case was measured, and nothing was written; repeat the command"
        remain = f"{len(remaining) - done} of {len(plan.groups)} groups remain"
        raise KeyboardInterrupt(f"interrupted: {remain}; {way_out}") from None
    finally:
        if results.cases or (results.complete and not arguments.force):  # else the old results stay
            _write(results, output, arguments.format, prices)
    if not results.cases:
        reasons = [f"{each.name}: {each.reason}" for each in results.skipped]
        raise EmbeddingBackbonesError(
            f"no case was measured ({'; '.join(reasons) or 'the contenders take no such items'}); see --contenders"
        )
    return 0


def _write(results: Results, output: Path, formats: Sequence[Format], prices: Prices | None) -> None:
    for path in write_report(results, output, tuple(dict.fromkeys(("json", *formats))), prices):
        print(path)


def _check_output(arguments: argparse.Namespace) -> None:
    if arguments.resume and arguments.force:
        raise UsageError("--resume keeps results and --force replaces them; give only one of them")
    if arguments.redo_disturbed and not arguments.resume:
        raise UsageError("--redo-disturbed needs --resume; give --resume too")
    if (arguments.output / RESULTS_FILE).exists() and not (arguments.resume or arguments.force):
        raise OutputError(f"{arguments.output} has results; continue them with --resume or replace them with --force")


def _timing_options(arguments: argparse.Namespace) -> TimingOptions:
    allowed = available_threads()
    threads = allowed if arguments.threads is None else arguments.threads
    if not 1 <= threads <= allowed:
        raise UsageError(f"--threads is {threads}; it must be from 1 to {allowed}, the threads of this process")
    return TimingOptions(
        threads=threads,
        min_rounds=arguments.rounds,
        seconds=arguments.seconds,
        patience=arguments.patience,
        confidence=arguments.confidence,
        half_width=arguments.half_width,
    )


def _plan_options(arguments: argparse.Namespace) -> PlanOptions:
    words = list(arguments.weights)
    if len(words) == 1 and "=" not in words[0] and len(arguments.artifacts) == 1:
        words = [f"{read_manifest(arguments.artifacts[0]).name}={words[0]}"]
    return PlanOptions(
        providers=_distinct(arguments.providers) if arguments.providers else None,
        batch_sizes=_distinct(arguments.batch_sizes),
        tokens=_distinct(arguments.tokens),
        stages=_distinct(arguments.stages),
        contenders=_distinct(arguments.contenders),
        weights=_pairs("--weights", words),
        pythons=_pairs("--python", arguments.python),
    )


def _distinct(values: Sequence[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))


def _item_paths(words: Sequence[str]) -> dict[str, Path]:
    paths = {kind: Path(path) for kind, path in _pairs("--items", words).items()}
    unknown = sorted(paths.keys() - {*get_args(TowerName)})
    if unknown:
        raise UsageError(f"--items names {', '.join(unknown)}; the kinds are {', '.join(get_args(TowerName))}")
    return paths


def _load_items(paths: Mapping[str, Path], plan: BenchmarkPlan) -> dict[TowerName, Items]:
    towers = _distinct([target.tower for target in plan.targets])
    unused = sorted(paths.keys() - set(towers))
    if unused:
        raise UsageError(f"--items names {', '.join(unused)}, but the artifacts embed only {', '.join(towers)}")
    return {tower: load_own_items(tower, paths[tower]) for tower in towers if tower in paths}


def _pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if not (name and value):
            raise UsageError(f"{option} {word} must have the form NAME=VALUE")
        if name in pairs:
            raise UsageError(f"{option} has two values for {name}: {pairs[name]} and {value}; give one")
        pairs[name] = value
    return pairs


def _begin(
    arguments: argparse.Namespace,
    plan: BenchmarkPlan,
    timing: TimingOptions,
    record: PlanRecord,
    command: str,
    stage: Stage,
) -> Results:
    """Return the results to continue, or empty ones with the ceilings of this machine."""
    fresh = Results(
        schema_version=SCHEMA_VERSION,
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        command=command,
        complete=False,
        confidence=timing.confidence,
        precision=timing.half_width,
        machine=this_machine(arguments.machine, timing.threads),
        ceilings=None,
        artifacts=plan.artifacts,
        cases=(),
        skipped=plan.skipped,
        plan=record,
        environments={name: survey(python) for name, python in _pairs("--python", arguments.python).items()},
    )
    if arguments.resume and (arguments.output / RESULTS_FILE).exists():
        found = read_results(arguments.output)
        check_resumable(found, fresh)
        fresh = merge_results(found, fresh)
    if arguments.no_ceilings or fresh.ceilings:
        return fresh
    with stage("ceilings"):
        return dataclasses.replace(fresh, ceilings=measure_ceilings(timing.threads, plan.providers))
