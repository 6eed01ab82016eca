"""Errors of other libraries, in our words: of the files that they wrote, and of their models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exporters.errors import WeightsError


@contextmanager
def parsing(path: Path | str) -> Iterator[None]:
    """Report the errors that a file of the wrong form causes in the block.

    Raises:
        WeightsError: The file has the wrong form; the message names ``path``.
    """
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as exc:
        raise WeightsError(
            f"{path} does not have the expected form ({type(exc).__name__}: {summarize_error(exc)}); save it again "
            "with its own library"
        ) from exc


@contextmanager
def taking_images(side: int) -> Iterator[None]:
    """Report the errors of a model that runs on square images in the block.

    Raises:
        WeightsError: The model fails; the message names ``side``, in pixels.
    """
    try:
        yield
    except Exception as exc:  # each library has its own errors for a wrong size
        raise WeightsError(
            f"the model does not take images of {side} x {side} pixels ({summarize_error(exc)}); use --crop or "
            "--image-size with a size that it takes"
        ) from exc


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        WeightsError: The file cannot be read.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise WeightsError(f"{path} cannot be read ({exc})") from exc


def summarize_error(exc: BaseException) -> str:
    """Return the first line of an error. The rest is often a page of advice for another library."""
    first, *_ = str(exc).strip().splitlines() or [type(exc).__name__]
    return first
