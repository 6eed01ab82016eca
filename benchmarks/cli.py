"""Command line of the benchmarks: ``run`` measures and writes a report; ``choose`` and ``compare`` read such reports.

``run`` is the default: ``python -m benchmarks ARTIFACT... -o REPORT``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from runtime import console
from runtime.arguments import ArgumentParser
from runtime.errors import needs_extra

_PROG = "python -m benchmarks"


class Command(NamedTuple):
    """Command of ``python -m benchmarks``. Its module has the functions ``main`` and ``build_parser``."""

    module: str
    summary: str

    def load(self) -> Any:
        """Import the module. So a command needs only its own packages: ``choose`` needs no torch."""
        with needs_extra("bench,cpu", f"`{_PROG}`"):
            return import_module(self.module)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the command line names, by default ``run``, and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        _build_overview()[0].parse_args(words)  # prints the help or an error, and exits
    name, words = (words[0], words[1:]) if words[0] in COMMANDS else ("run", words)
    return console.run(lambda: int(COMMANDS[name].load().main(words)))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser, commands = _build_overview()
    for name, command in COMMANDS.items():
        commands.choices[name] = command.load().build_parser()
    return parser


def _build_overview() -> tuple[argparse.ArgumentParser, Any]:
    """Return the parser that knows the commands by name, and its group of them."""
    parser = ArgumentParser(
        prog=_PROG,
        usage=f"{_PROG} [COMMAND] ...",
        description=f"Benchmark artifacts. `run` is the default command: {_PROG} ARTIFACT... -o REPORT.",
        epilog=f"`{_PROG} COMMAND --help` describes the options of a command.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.summary, add_help=False)
    return parser, commands


COMMANDS = {
    "run": Command("benchmarks.measure.cli", "Measure artifacts on this machine, and write a report (the default)"),
    "choose": Command("benchmarks.choose.cli", "Choose machine, variant and number of machines by cost"),
    "compare": Command("benchmarks.compare.cli", "Compare two results, and judge each case"),
    "serve": Command("benchmarks.serve.cli", "Load servers with requests, and report throughput and latency"),
    "soak": Command("benchmarks.serve.soak", "Load a server for long, and check every answer and its memory"),
    "footprint": Command("benchmarks.scenarios.footprint", "Measure the size of an installation and its start"),
    "memory": Command("benchmarks.scenarios.memory_growth", "Measure the growth of memory over many batches"),
}
