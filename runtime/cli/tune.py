"""The command ``tune``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from runtime.artifact.reader import read_manifest
from runtime.cli.options import NUMBER, NUMBERS, PROVIDERS, add_command, take_options
from runtime.errors import TuningError, UsageError

if TYPE_CHECKING:
    from runtime.tune.measure import TuneOptions


def add_commands(commands: Any) -> None:
    """Add the command ``tune``."""
    tune = add_command(
        commands, "tune", _tune, "Measure the fastest settings on this machine, and store them for load()"
    )
    tune.add_argument(
        "--max-latency-ms",
        type=float,
        metavar="MS",
        help="Reject settings whose 95th percentile of latency is above MS. The accepted settings with the most items "
        "per second win (default: no limit).",
    )
    tune.add_argument(
        "--min-cosine",
        type=float,
        metavar="COSINE",
        help="Set the smallest allowed cosine similarity to the golden vectors (default: the bound of the command "
        "verify, which depends on the variant and the precision)",
    )
    tune.add_argument(
        "--batch-sizes",
        default=(1, 8, 32),
        help="Measure these batch sizes. For texts, measure calls of so many for each batch that may run side by side "
        "(default: 1 8 32).",
        **NUMBERS,
    )
    tune.add_argument(
        "--threads",
        help="Measure these numbers of threads: on cpu of each batch, with as many batches side by side as fit, and "
        "elsewhere of all batches (default: 1, half of the allowed threads, and all of them)",
        **NUMBERS,
    )
    tune.add_argument(
        "--provider",
        choices=PROVIDERS,
        default="auto",
        help="Measure only this execution provider. auto measures all usable ones (default: %(default)s).",
    )
    tune.add_argument(
        "--tower",
        choices=["text", "image"],
        help="Tune this tower; required if the artifact has two (default: the only one)",
    )
    tune.add_argument(
        "--rounds", default=10, help="Measure each setting N times in turns (default: %(default)s)", **NUMBER
    )
    tune.add_argument("--json", action="store_true", help="Print the report as JSON (default: as text)")
    tune.add_argument(
        "--forget",
        action="store_true",
        help="Remove the stored settings of this artifact, and measure nothing (default: off)",
    )


def _tune(arguments: argparse.Namespace) -> int:
    from runtime.loading import tuning_store
    from runtime.tune import report
    from runtime.tune.measure import TuneOptions, measure

    options = take_options(TuneOptions, arguments)
    if arguments.forget:
        return _forget(arguments, options)
    tuning_store.check_store()
    manifest = read_manifest(arguments.artifact)
    found = measure(arguments.artifact, options, progress=sys.stderr.isatty())
    print(report.render_json(found) if arguments.json else report.render_text(found))
    if read_manifest(arguments.artifact).sha256 != manifest.sha256:
        raise TuningError(f"{arguments.artifact} changed while it was measured; run tune again; nothing is stored")
    if found.winner is None:
        raise report.explain_no_winner(found)
    tuning_store.write_tuning(manifest, report.make_tuning(manifest, found.tower, found.winner, options.max_latency_ms))
    if not arguments.json:
        call = "load()" if len(manifest.towers) == 1 else f"load() with tower={found.tower!r}"
        print(f"winner: {found.describe(found.winner)}; {call} uses it from now on")
    return 0


def _forget(arguments: argparse.Namespace, options: TuneOptions) -> int:
    from runtime.loading import tuning_store

    fields = [field for field in dataclasses.fields(options) if field.name != "tower"]
    given = [field.name for field in fields if getattr(options, field.name) != field.default] + [
        "json"
    ] * arguments.json
    if given:
        raise UsageError(f"--{given[0].replace('_', '-')} is for a measurement; leave it out with --forget")
    manifest = read_manifest(arguments.artifact)
    towers = [arguments.tower] if arguments.tower else list(manifest.towers)
    forgotten = [tower for tower in towers if tuning_store.remove_tuning(manifest, tower)]
    print(f"forgotten: {' and '.join(forgotten)}" if forgotten else "there was nothing to forget on this machine")
    return 0
