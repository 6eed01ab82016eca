"""Format figures for readers: three significant digits, a unit, and a dash for a missing value."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from runtime.artifact.parity import format_cosine

NONE = "-"
_LARGE, _SMALL = 1e6, 1e-3  # powers of ten are easier to read beyond these
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def digits(value: float | None) -> str:
    """Return ``value`` with three significant digits, such as ``0.0123``, ``12.3`` or ``12,300``."""
    if value is None or not math.isfinite(value):
        return NONE if value is None else str(value)
    value = float(f"{value:.3g}")
    if value != 0 and not _SMALL <= abs(value) < _LARGE:
        return f"{value:.2e}"
    exponent = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(0, 2 - exponent)}f}" if value else "0"


def short(value: float) -> str:
    """Return ``value`` as :func:`digits` does, without trailing zeros: ``0.5``, for the ticks of an axis."""
    text = digits(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def span(low: float, high: float) -> str:
    """Return an interval: ``[12.1, 12.6]``."""
    return f"[{digits(low)}, {digits(high)}]"


def percent(share: float) -> str:
    """Return a share as a percentage: without decimals, or with one if it is below 10%."""
    text = f"{100 * share:.0f}" if share >= 0.0995 else f"{100 * share:.1f}"
    return f"{text.removesuffix('.0')}%"


def gibibytes(size_bytes: float) -> str:
    """Return a size in GiB, with the unit."""
    return f"{digits(size_bytes / 2**30)} GiB"


def cosine(value: float | None) -> str:
    """Return a cosine similarity without line breaks; one close to 1 is shown as its distance from 1."""
    return NONE if value is None else format_cosine(value).replace(" ", "\u00a0")


def count(number: int, noun: str) -> str:
    """Return a number and its noun: ``1 case``, ``2 cases``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def listing(names: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def printable(text: str) -> str:
    """Return ``text`` with U+FFFD for each character that XML or UTF-8 does not allow."""
    return _UNPRINTABLE.sub("\ufffd", text)
