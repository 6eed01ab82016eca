"""Real texts of mixed length that every machine has: docstrings of Python's standard library."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from runtime.errors import UsageError

_SKIPPED = ("test", "tests", "idlelib", "site-packages", "lib2to3")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def load_texts(count: int, *, step: int = 1) -> list[str]:
    """Return ``count`` distinct docstrings of one phrase to several pages, in the order of the library's files.

    Args:
        count: Number of docstrings. Python 3.11 has about 7,000 distinct ones.
        step: Take every ``step``-th docstring, and then those between.

    Raises:
        UsageError: The library has fewer.
    """
    texts = dict[str, None]()
    for text in chain.from_iterable(islice(_docstrings(), first, None, step) for first in range(step)):
        texts[text] = None
        if len(texts) == count:
            return list(texts)
    raise UsageError(
        f"Python's standard library gives {len(texts)} distinct texts, and {count} are needed; ask for fewer by "
        "--items, or give your own by --calibration"
    )


def _docstrings() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if not any(part in _SKIPPED for part in path.relative_to(library).parts):
            yield from _docstrings_of(path)


def _docstrings_of(path: Path) -> Iterator[str]:
    with warnings.catch_warnings(action="ignore"):  # about invalid escapes in the library
        tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
            yield text
