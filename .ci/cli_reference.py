"""Write ``docs/reference/cli.md`` from the argument parsers; with ``--check``, exit with 1 if the page is stale."""

# ruff: noqa: SLF001  argparse has no public way to list its groups and arguments
from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/cli.md"
# Each program, and the module of its parser. Subcommands come from the parser itself.
PARSERS = {
    "python -m runtime": "runtime.cli.main",
    "python -m exporters": "exporters.cli.main",
    "python -m benchmarks": "benchmarks.cli",
}
INTRODUCTION = """# Command line

After this page you know every command and every option. `make format` writes this page from the programs themselves.

Lists are given with spaces between their members, as in `--batch-sizes 1 8 32`. Commas work as well, but not in paths.
"""


def build_parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command, those of subcommands too, by what a user types."""
    sys.path.insert(0, str(ROOT))  # benchmarks is not installed
    parsers: dict[str, argparse.ArgumentParser] = {}
    for command, name in PARSERS.items():
        parsers[command] = import_module(name).build_parser()
        for action in parsers[command]._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers |= {f"{command} {word}": parser for word, parser in action.choices.items()}
    return parsers


def describe(command: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the section of one command."""
    yield f"## {_title(command)}"
    yield f"`{command}`"
    yield _prose(parser.description)
    if parser.epilog:
        yield _prose(parser.epilog)
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if _is_shown(action)]
        subcommands = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
        actions = [action for action in actions if action not in subcommands]
        for action in subcommands:
            yield "\n".join(["| command | meaning |", "|---|---|", *_subcommand_rows(command, action)])
        if actions:
            if group.title not in ("positional arguments", "options", "optional arguments", "commands"):
                yield f"**{group.title[:1].upper()}{group.title[1:]}**"
            yield "\n".join(["| argument | meaning |", "|---|---|", *(_row(parser, action) for action in actions)])


def _subcommand_rows(command: str, action: argparse._SubParsersAction[argparse.ArgumentParser]) -> Iterator[str]:
    for choice in action._choices_actions:
        anchor = _title(f"{command} {choice.dest}").replace(" ", "-")
        yield f"| [`{choice.dest}`](#{anchor}) | {_cell(choice.help)} |"


def _is_shown(action: argparse.Action) -> bool:
    return not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    values = "" if action.nargs == 0 else _values(action)
    text = (action.help or "") % (vars(action) | {"prog": parser.prog})
    required = "Required. " if action.required and action.option_strings else ""
    return f"| {' '.join(filter(None, (names, values)))} | {_cell(required + text)} |"


def _values(action: argparse.Action) -> str:
    if isinstance(action, argparse.BooleanOptionalAction):
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(f"`{word}`" for word in action.metavar)
    default = action.dest.upper() if action.option_strings else action.dest
    value = " or ".join(f"`{word}`" for word in action.choices or (action.metavar or default).split("|"))
    return f"[{value}]" if action.nargs == "?" else value + (" ..." if action.nargs in ("+", "*") else "")


def _cell(text: str | None) -> str:
    """Return text for a cell of a table. Renderers read a backslash in a code span as it is, but one before a pipe."""
    code = re.compile(r"(`[^`]+`)")
    parts = code.split(" ".join((text or "").split()))
    return "".join(part.replace("|", r"\|") if code.match(part) else _escape(part) for part in parts)


def _escape(text: str) -> str:
    escaped = re.sub(r"([|<>*_\[\]])", r"\\\1", text)
    return re.sub(r"(?<!\w)(--[a-z][a-z0-9-]+)", r"`\1`", escaped)


def _prose(text: str | None) -> str:
    words = " ".join((text or "").split())
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith('.') else '.'}"


def _title(command: str) -> str:
    """Return a heading whose anchor is the same on every renderer: no ``-m`` in it."""
    return command.removeprefix("python -m ")


def render() -> str:
    """Return the page."""
    sections = (section for command, parser in build_parsers().items() for section in describe(command, parser))
    return "\n\n".join([INTRODUCTION.rstrip(), *sections]) + "\n"


if __name__ == "__main__":
    from generated import write_or_check  # beside this file, which tests load by its path

    sys.exit(write_or_check(PAGE, render()))
