"""Warn of texts that were cut to the model's limit of tokens."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from runtime.inference.pipeline import PartialEmbeddings

_LOG = logging.getLogger("runtime")
_WARN_OF_TRUNCATION = ContextVar("warn_of_truncation", default=True)


@contextmanager
def without_truncation_warning() -> Iterator[None]:
    """Suppress the warning that :meth:`runtime.Embedder.embed` logs about truncated texts, in this context only."""
    token = _WARN_OF_TRUNCATION.set(False)
    try:
        yield
    finally:
        _WARN_OF_TRUNCATION.reset(token)


def warn_of_truncation(parts: Iterator[PartialEmbeddings]) -> Generator[PartialEmbeddings, None, None]:
    """Yield ``parts``, and log in the end how many texts of them were truncated."""
    truncated = total = 0
    for part in parts:
        truncated += len(part.truncated)
        total += len(part.kept) + len(part.failures)
        yield part
    if truncated and _WARN_OF_TRUNCATION.get():
        _LOG.warning("%d of %d texts were cut to the model's limit of tokens", truncated, total)
