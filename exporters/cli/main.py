"""The parser and the entry point of ``python -m exporters``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from exporters.cli import artifact, export, fit, listing, optimize, publish
from runtime import console
from runtime.arguments import ArgumentParser
from runtime.version import __version__

_COMMANDS = ("export", "optimize", "fit", "publish", "sign", "bom", "list")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] not in (*_COMMANDS, "-h", "--help", "--version"):
        arguments.insert(0, "export")  # `exporters resnet-base` is short for `exporters export resnet-base`
    parsed = build_parser().parse_args(arguments)
    return console.run(lambda: parsed.command(parsed))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands. It stores the function of a command as ``command``."""
    parser = ArgumentParser(
        prog="python -m exporters",
        description="Export embedding models to ONNX artifacts, and compare each with the vectors of its own library.",
        epilog="`python -m exporters resnet-base` is short for `python -m exporters export resnet-base`; "
        "`python -m exporters export --help` lists the options. `python -m runtime` embeds with an artifact.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for each in (export, optimize, fit, publish, artifact, listing):
        each.add_commands(commands)
    return parser
