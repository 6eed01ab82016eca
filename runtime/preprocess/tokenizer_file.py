"""Load the tokenizer of an artifact, unless its file is none or could make a short text huge."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from runtime.errors import InferenceError, IntegrityError

MAX_TOKENIZER_BYTES = 2**28  # the largest of the field have about 40 MB
MAX_GROWTH = 256  # times; the replacements of the field's tokenizers are not longer than what they replace
_PANIC = "PanicException"  # pyo3's class cannot be imported, and is no Exception


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer.

    Raises:
        IntegrityError: The file is missing, not regular, too large or not a tokenizer, or its normalizer could make a
            text more than :data:`MAX_GROWTH` times as long.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # a pipe could wait forever
            raise ValueError("it is not a regular file")
        if state.st_size > MAX_TOKENIZER_BYTES:
            raise ValueError(f"it has {state.st_size} bytes, more than {MAX_TOKENIZER_BYTES}")
        with panics_as_errors():
            tokenizer = Tokenizer.from_file(str(path))
        if tokenizer.normalizer is not None and _growth(json.loads(tokenizer.normalizer.__getstate__())) > MAX_GROWTH:
            raise ValueError(f"its normalizer can make a text more than {MAX_GROWTH} times as long")
    except Exception as exc:  # tokenizers raises Exception itself
        raise IntegrityError(f"{path} cannot be loaded as a tokenizer ({exc}); export the artifact again") from exc
    return tokenizer


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise a panic of the tokenizers library, for example about a pattern without an end, as a ``ValueError``.

    Raises:
        InferenceError: The library cannot start its threads, so no text can be tokenized.
    """
    try:
        yield
    except BaseException as exc:
        if type(exc).__name__ != _PANIC:
            raise
        if "thread pool" in str(exc):
            raise InferenceError(
                "the tokenizer cannot start its threads; raise the limit of processes (`ulimit -u`, or that of the "
                "container), or set TOKENIZERS_PARALLELISM=false"
            ) from exc
        raise ValueError(f"the tokenizer fails: {exc}") from exc


def _growth(step: dict[str, Any]) -> float:
    """Return how many times as long the replacements of a normalizer can make a text of one character."""
    if step["type"] == "Sequence":
        growth = 1.0
        for each in step["normalizers"]:
            growth *= _growth(each)
        return growth
    if step["type"] == "Replace":
        replaced = len(step["pattern"].get("String", "x")) or 1  # a regular expression may match one character
        return max(1.0, len(step["content"]) / replaced)
    return 1.0 + len(step["prepend"]) if step["type"] == "Prepend" else 1.0
