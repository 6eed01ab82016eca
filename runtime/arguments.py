"""Options that take a list, a number or a path, the same on every command line of the project."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from runtime.uris import public_name, starts_like_uri

Number = TypeVar("Number", int, float)


def number(
    kind: Callable[[str], Number], expected: str, is_allowed: Callable[[Number], bool]
) -> Callable[[str], Number]:
    """Return a parser of finite numbers for the ``type`` of an option.

    Args:
        kind: Conversion of a text, such as ``int`` or ``float``. It raises :class:`ValueError` for other texts.
        expected: The numbers that are allowed, for the error, such as ``a number above 0``.
        is_allowed: Whether a finite number is one of them.
    """

    def parse(text: str) -> Number:
        with contextlib.suppress(ValueError, OverflowError):
            value = kind(text)
            if math.isfinite(value) and is_allowed(value):
                return value
        raise argparse.ArgumentTypeError(f"it is {text:.80}, it must be {expected}")

    return parse


parse_count = number(int, "a whole number from 1 up", lambda value: value >= 1)
parse_positive = number(float, "a number above 0", lambda value: value > 0)
parse_from_0 = number(float, "a number from 0 up", lambda value: value >= 0)
parse_cosine = number(float, "a cosine similarity from -1 to 1", lambda value: -1 <= value <= 1)


def parse_path(text: str) -> Path:
    """Return the path that an option names. Of a URI, Python would make the path of another place."""
    if starts_like_uri(text):
        raise argparse.ArgumentTypeError(
            f"{public_name(text)} is a URI; give a path of this machine, and copy it from or to there yourself"
        )
    return Path(text)


_OPTION = re.compile(r"-[^\d.]")  # not a negative number, and not the - of standard input


class ListAction(argparse.Action):
    """Store a list as a tuple. Spaces or commas separate its values: ``--threads 1 2 4`` or ``--threads 1,2,4``.

    Use it as ``parser.add_argument("--threads", action=ListAction, type=int, default=(1, 2), metavar="N")``. The option
    takes at least one value. A repeated option replaces the earlier list. Arguments may follow the list if the parser
    is an :class:`ArgumentParser` of this module. A list of any strings ends only at the next option.
    """

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        *,
        type: Callable[[str], Any] = str,  # noqa: A002  argparse's name
        choices: Iterable[str] | None = None,
        metavar: str | None = None,
        **options: Any,
    ) -> None:
        """Take the arguments of :meth:`argparse.ArgumentParser.add_argument`; ``nargs`` is always ``"+"``."""
        self.words = words = None if choices is None else tuple(choices)
        if metavar is None and words is not None:
            metavar = f"{{{','.join(words)}}}"

        def convert(text: str) -> list[Any]:
            return [_convert_word(word, type, words) for word in text.split(",")]

        super().__init__(option_strings, dest, nargs="+", type=convert, metavar=metavar, **options)

    def accepts(self, text: str) -> bool:
        """Tell whether ``text`` is a value of the list, or several that commas separate."""
        try:
            self.type(text)  # type: ignore[operator,misc]
        except argparse.ArgumentTypeError:
            return False
        return True

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Store the values of all words as one tuple."""
        setattr(namespace, self.dest, tuple(value for word in values for value in word))


# Options of other programs, and those that mean the same here.
_ELSEWHERE = {
    "--device": ("--provider",),
    "--gpu": ("--provider",),
    "--fp16": ("--precision", "--variant"),
    "--int8": ("--precision", "--variant"),
    "--quantize": ("--precision", "--variant"),
}


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser that ends a list where its values end: ``--threads 1 2 ARTIFACT`` means what it seems to.

    Python's own parser takes every word up to the next option for a value of the list. This one takes no abbreviations,
    and the parser of a command, not that of all commands, refuses what it does not know.
    """

    def __init__(self, **settings: Any) -> None:
        """Take the keyword arguments of :class:`argparse.ArgumentParser`, except ``allow_abbrev``."""
        super().__init__(**settings, allow_abbrev=False)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See :meth:`argparse.ArgumentParser.parse_known_args`; unknown arguments end the program here."""
        words = self._join_lists(sys.argv[1:] if args is None else args)
        namespace, unknown = super().parse_known_args(words, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}; {self._suggest(unknown[0].partition('=')[0])}")
        return namespace, unknown

    def print_usage(self, file: Any = None) -> None:
        """Print the usage; of a program with commands the whole help, which lists them."""
        if self._subparsers is None:
            super().print_usage(file)
        else:
            self.print_help(file)
            print(file=file)

    def _suggest(self, option: str) -> str:
        known = self._option_string_actions
        close = [each for each in _ELSEWHERE.get(option, ()) if each in known]
        close = close or difflib.get_close_matches(option, known, n=2, cutoff=0.7)
        return f"did you mean {' or '.join(close)}?" if close else f"see `{self.prog} --help`"

    def _join_lists(self, words: Sequence[str]) -> list[str]:
        """Write ``--threads 1 2`` as ``--threads=1,2``."""
        lists = {name: action for name, action in self._option_string_actions.items() if isinstance(action, ListAction)}
        joined: list[str] = []
        left = list(words)
        while left:
            word = left.pop(0)
            values: list[str] = []
            while word in lists and left and not _OPTION.match(left[0]) and lists[word].accepts(left[0]):
                values.append(left.pop(0))
            joined.append(f"{word}={','.join(values)}" if values else word)
        return joined


def _convert_word(word: str, convert: Callable[[str], Any], choices: Sequence[str] | None) -> Any:
    if choices is not None and word not in choices:
        raise argparse.ArgumentTypeError(f"invalid choice: {word!r} (choose from {', '.join(choices)})")
    try:
        return convert(word)
    except ValueError:
        kind = "a whole number" if convert is int else "a number" if convert is float else "a valid value"
        raise argparse.ArgumentTypeError(f"{word!r} is not {kind}; separate the values by spaces or commas") from None
