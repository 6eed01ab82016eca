"""Real texts of mixed length that every machine has: docstrings of Python's standard library."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

_SKIPPED = ("test", "tests", "idlelib", "site-packages", "lib2to3")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def load_texts(count: int) -> list[str]:
    """Return ``count`` docstrings of one phrase to several pages, in the order of the library's files.

    Python 3.11 has about 9,000 docstrings; beyond that they repeat.
    """
    texts = list(islice(_docstrings(), count))
    return [texts[index % len(texts)] for index in range(count)]


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
