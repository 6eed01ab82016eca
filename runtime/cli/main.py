"""The parser and the entry point of ``python -m runtime``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from runtime import console
from runtime.arguments import ArgumentParser
from runtime.cli import artifact, embed, search, serve, tune
from runtime.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, from ``argv`` or the command line of this process.

    Returns:
        The exit code: 0 for success, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C.
    """
    arguments = build_parser().parse_args(argv)
    return console.run(lambda: arguments.command(arguments))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands. It stores the function of a command as ``command``."""
    parser = ArgumentParser(
        prog="python -m runtime",
        description="Embed texts, images or meshes with an exported artifact, without PyTorch.",
        epilog="`python -m exporters NAME` exports a model to an artifact. `python -m runtime COMMAND --help` "
        "describes the options of a command.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    embed.add_commands(commands)
    search.add_commands(commands)
    serve.add_commands(commands)
    artifact.add_info(commands)
    tune.add_commands(commands)
    artifact.add_verify(commands)
    artifact.add_compat(commands)
    artifact.add_doctor(commands)
    return parser
