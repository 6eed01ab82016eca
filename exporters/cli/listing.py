"""The command ``list``."""

from __future__ import annotations

import argparse
from typing import Any

from exporters.catalogue import tables
from runtime.artifact.manifest import TASKS


def add_commands(commands: Any) -> None:
    """Add the command ``list``."""
    parser = commands.add_parser("list", help="Print the catalogue of backbones")
    parser.description = "Print the catalogue of backbones as a table."
    parser.set_defaults(command=_list)
    parser.add_argument("--task", choices=TASKS, help="Print only the backbones for this task (default: all)")
    layout = parser.add_mutually_exclusive_group()
    layout.add_argument("--json", action="store_true", help="Print JSON instead of a table")
    layout.add_argument("--markdown", action="store_true", help="Print Markdown, the table of the README")


def _list(arguments: argparse.Namespace) -> int:
    if arguments.markdown:
        print(tables.as_markdown(arguments.task))
    else:
        other = f"\n\n{tables.OTHER_MODELS}"
        print(tables.as_json(arguments.task) if arguments.json else tables.as_table(arguments.task) + other)
    return 0
