from __future__ import annotations

import argparse

import pytest

from runtime.arguments import ArgumentParser, ListAction


def make_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="test")
    parser.add_argument("artifact")
    parser.add_argument("--sizes", action=ListAction, type=int, default=(1, 8), metavar="N", help="sizes")
    parser.add_argument("--precision", action=ListAction, choices=["fp16", "int8"], help="precisions")
    return parser


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (1, 8)),
        (["--sizes", "4"], (4,)),
        (["--sizes", "1", "8", "32"], (1, 8, 32)),
        (["--sizes", "1,8,32"], (1, 8, 32)),
        (["--sizes", "1,8", "32"], (1, 8, 32)),
        (["--sizes=1,8"], (1, 8)),
        (["--sizes", "1", "--sizes", "2"], (2,)),
    ],
)
def test_spaces_and_commas_separate_values(words: list[str], expected: tuple[int, ...]) -> None:
    assert make_parser().parse_args(["artifact", *words]).sizes == expected


@pytest.mark.parametrize(
    "words",
    [
        ["--sizes", "1,8", "a"],
        ["--sizes", "1", "8", "a"],
        ["--precision", "fp16", "--sizes", "1", "8", "a"],
        ["a", "--sizes=1,8"],
    ],
)
def test_other_arguments_may_stand_before_and_after_a_list(words: list[str]) -> None:
    arguments = make_parser().parse_args(words)
    assert (arguments.artifact, arguments.sizes) == ("a", (1, 8))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--names", "a", "b", "--epochs", "3", "artifact"], (("a", "b"), 3)),
        (["--names", "a,b", "-e3", "artifact"], (("a", "b"), 3)),
        (["artifact", "--epochs=3", "--names", "a", "b"], (("a", "b"), 3)),
        (["--names", "a", "-", "--", "artifact"], (("a", "-"), 1)),
    ],
)
def test_a_list_of_strings_ends_at_the_next_option(words: list[str], expected: tuple[tuple[str, ...], int]) -> None:
    parser = ArgumentParser(prog="test")
    parser.add_argument("artifact")
    parser.add_argument("--names", action=ListAction)
    parser.add_argument("-e", "--epochs", type=int, default=1)
    arguments = parser.parse_args(words)
    assert (arguments.artifact, (arguments.names, arguments.epochs)) == ("artifact", expected)


def test_commands_have_lists_too() -> None:
    parser = ArgumentParser(prog="test")
    command = parser.add_subparsers().add_parser("go")
    command.add_argument("--sizes", action=ListAction, type=int)
    command.add_argument("artifact")
    assert parser.parse_args(["go", "--sizes", "1", "8", "a"]) == argparse.Namespace(sizes=(1, 8), artifact="a")


def test_choices_hold_for_each_value() -> None:
    assert make_parser().parse_args(["a", "--precision", "fp16,int8"]).precision == ("fp16", "int8")
    assert make_parser().parse_args(["a"]).precision is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "--sizes", "1,x"], "'x' is not a whole number; separate the values by spaces or commas"),
        (["a", "--sizes", "1,"], "'' is not a whole number"),
        (["a", "--sizes"], "expected at least one argument"),
        (["a", "--precision", "fp16,fp8"], "invalid choice: 'fp8' (choose from fp16, int8)"),
    ],
)
def test_wrong_values_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args(words)
    assert message in capsys.readouterr().err


def test_the_help_names_one_value() -> None:
    text = make_parser().format_help()
    assert "--sizes N [N ...]" in text
    assert "--precision {fp16,int8} [{fp16,int8} ...]" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fp16"], "unrecognized arguments: --fp16; did you mean --precision?"),
        (["--quantize=int8"], "unrecognized arguments: --quantize=int8; did you mean --precision?"),
        (["--precison", "int8"], "unrecognized arguments: --precison int8; did you mean --precision?"),
        (["--prec", "int8"], "unrecognized arguments: --prec int8; did you mean --precision?"),  # no abbreviations
        (["--threads", "2"], "unrecognized arguments: --threads 2; see `test run --help`"),
    ],
)
def test_the_parser_of_a_command_names_an_option_it_knows(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = ArgumentParser(prog="test")
    command = parser.add_subparsers(required=True, metavar="COMMAND").add_parser("run", help="Run it")
    command.add_argument("artifact")
    command.add_argument("--precision", action=ListAction, choices=["fp16", "int8"], help="precisions")
    with pytest.raises(SystemExit):
        parser.parse_args(["run", "a", *words])
    assert capsys.readouterr().err.endswith(f"test run: error: {message}\n")


def test_a_program_without_its_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser(prog="test")
    parser.add_subparsers(required=True, metavar="COMMAND").add_parser("run", help="Run it")
    with pytest.raises(SystemExit):
        parser.parse_args([])
    error = capsys.readouterr().err
    assert "Run it" in error
    assert error.endswith("test: error: the following arguments are required: COMMAND\n")
