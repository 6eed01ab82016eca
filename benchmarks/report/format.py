"""Figures as people read them: three digits, a unit, and a dash where there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence

from runtime.artifact.parity import near_one

NONE = "-"
_LARGE, _SMALL = 1e6, 1e-3  # beyond them powers of ten are easier to read


def digits(value: float | None) -> str:
    """Returns ``value`` with three significant digits, such as ``0.0123``, ``12.3`` or ``12,300``."""
    if value is None or not math.isfinite(value):
        return NONE if value is None else str(value)
    value = float(f"{value:.3g}")
    if value != 0 and not _SMALL <= abs(value) < _LARGE:
        return f"{value:.2e}"
    exponent = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(0, 2 - exponent)}f}" if value else "0"


def short(value: float) -> str:
    """Returns ``value`` as :func:`digits` has it, without zeros at its end: ``0.5``, for the ticks of an axis."""
    text = digits(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def span(low: float, high: float) -> str:
    """Returns an interval: ``[12.1, 12.6]``."""
    return f"[{digits(low)}, {digits(high)}]"


def percent(share: float) -> str:
    """Returns a share as a percentage without decimals, or with one where it is small."""
    text = f"{100 * share:.0f}" if share >= 0.0995 else f"{100 * share:.1f}"
    return f"{text.removesuffix('.0')} %"


def mebibytes(size_bytes: float) -> str:
    """Returns a size in MiB, without its unit."""
    return digits(size_bytes / 2**20)


def gibibytes(size_bytes: float) -> str:
    """Returns a size with its unit, GiB."""
    return f"{digits(size_bytes / 2**30)} GiB"


def cosine(value: float | None) -> str:
    """Returns a cosine similarity so that what it lacks to one can be read, on one line."""
    return NONE if value is None else near_one(value).replace(" ", "\u00a0")


def count(number: int, noun: str) -> str:
    """Returns ``1 case``, ``2 cases``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def listing(names: Sequence[str]) -> str:
    """Returns ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
