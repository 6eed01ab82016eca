"""Read prices of machines from a TOML file that the user writes. ``docs/prices.example.toml`` is an example."""

from __future__ import annotations

import datetime as dt
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.arguments import parse_path
from runtime.artifact.json_schema import decode
from runtime.errors import EmbeddingBackbonesError, ManifestError, UsageError

EXAMPLE = "docs/prices.example.toml"


class PricesError(EmbeddingBackbonesError):
    """A price file is missing, is not TOML, or has a wrong entry."""


@dataclass(frozen=True, kw_only=True)
class MachinePrice:
    """Price of a machine per hour."""

    per_hour: float  # price in the file's currency, above zero.
    source: str  # where the price is from: the address of a page, an offer, a bill.

    def __post_init__(self) -> None:
        """Raise :class:`UsageError` if the price is not above zero, or its source is empty."""
        if self.per_hour <= 0:
            raise UsageError(f"per_hour is {self.per_hour:g}; it must be above zero")
        if not self.source.strip():
            raise UsageError("source is empty; name the origin of the price")


@dataclass(frozen=True, kw_only=True)
class Prices:
    """A price file."""

    date: str  # day on which the prices were looked up: `2026-01-19`.
    currency: str  # currency of all prices, such as `USD`.
    machines: dict[str, MachinePrice]  # prices by the name of the machine in results.

    def __post_init__(self) -> None:
        """Raise :class:`UsageError` if date, currency or machines are missing or wrong."""
        try:
            dt.date.fromisoformat(self.date)
        except ValueError:
            raise UsageError(f"date is {self.date!r:.40}; it must be a day such as 2026-01-19") from None
        if not self.currency.strip():
            raise UsageError("currency is empty; enter one, such as USD")
        if not self.machines:
            raise UsageError('no machine has a price; add one as [machines."NAME"]')

    def per_hour(self, machine: str) -> float | None:
        """Return the price per hour of the machine of that name; ``None`` if it has no price."""
        price = self.machines.get(machine)
        return None if price is None else price.per_hour


def read_prices(path: Path) -> Prices:
    """Read and check a price file.

    It is TOML with ``date``, ``currency``, and ``[machines."NAME"]`` with ``per_hour`` and ``source``; nothing else.

    Raises:
        PricesError: The file is missing, is not TOML, lacks a key, has an unknown key, or has a wrong value.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"), parse_float=_finite)
    except FileNotFoundError:
        raise PricesError(f"{path} does not exist; copy {EXAMPLE} and enter your prices") from None
    except OSError as exc:
        raise PricesError(f"cannot read {path} ({exc.strerror}); name a readable file such as {EXAMPLE}") from exc
    except (ValueError, RecursionError) as exc:
        raise PricesError(f"{path} is not TOML ({exc}); see {EXAMPLE}") from exc
    return _decode(document, path)


def _finite(text: str) -> float | str:
    """Return a number, or the text itself for nan and inf, so that the error names the key of that value."""
    number = float(text)
    return number if math.isfinite(number) else text


def _decode(document: dict[str, Any], path: Path) -> Prices:
    if isinstance(document.get("date"), dt.date):
        document["date"] = document["date"].isoformat()
    try:
        return decode(Prices, document, "prices")
    except ManifestError as exc:
        raise PricesError(f"{path}: {exc}; see {EXAMPLE}") from exc


def cost_per_million(items_per_s: float, per_hour: float) -> float:
    """Return the cost of embedding a million items on machines that together cost ``per_hour``."""
    return per_hour / (3600 * items_per_s) * 1e6


def add_price_options(add: Callable[..., object]) -> None:
    """Add ``--prices`` and ``--machine`` to a parser or a group, whose ``add_argument`` is ``add``."""
    add(
        "--prices",
        type=parse_path,
        metavar="TOML",
        help="File with prices of machines per hour, to report the cost of a million embeddings (default: no costs)",
    )
    add("--machine", metavar="NAME", help="Name of this machine in reports and price files (default: its CPU and GPUs)")
