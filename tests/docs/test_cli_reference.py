"""The page of the command line is made from parsers, and renderers of Markdown show what `--help` shows."""

from __future__ import annotations

import argparse

from tests.docs.pages import cli_reference


def rows(parser: argparse.ArgumentParser) -> list[str]:
    """Return the rows of the table of a parser's arguments."""
    text = "\n".join(cli_reference().describe("python -m toy", parser))
    return [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| argument")]


def test_a_row_has_two_cells_and_no_backslash_in_code() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", metavar="pretrained|PATH", help="A `a|b_*` or c|d_*, see --other-option.")
    assert rows(parser) == [r"| `--weights` `pretrained` or `PATH` | A `a\|b_*` or c\|d\_\*, see `--other-option`. |"]


def test_values_are_those_of_the_help() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mean", nargs=3, metavar=("R", "G", "B"), help="x")
    parser.add_argument("--lora", nargs="?", metavar="RANK", help="x")
    parser.add_argument("--sizes", nargs="+", help="x")
    parser.add_argument("--level", choices=["low", "high"], help="x")
    assert [row.split(" | ")[0] for row in rows(parser)] == [
        "| `--mean` `R` `G` `B`",
        "| `--lora` [`RANK`]",
        "| `--sizes` `SIZES` ...",
        "| `--level` `low` or `high`",
    ]


def test_a_hidden_option_is_not_on_the_page() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--old", help=argparse.SUPPRESS)
    assert not rows(parser)
    assert argparse.SUPPRESS not in cli_reference().render()
