"""What machines cost: a file that its user keeps, since no two pay the same. ``docs/prices.example.toml`` is one."""

from __future__ import annotations

import datetime as dt
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.artifact.json_schema import decode
from runtime.errors import EmbeddingBackbonesError, ManifestError, UsageError

EXAMPLE = "docs/prices.example.toml"


class PricesError(EmbeddingBackbonesError):
    """A file of prices is missing, is not TOML, or holds what is no price."""


@dataclass(frozen=True, kw_only=True)
class MachinePrice:
    """What an hour of a machine costs.

    Attributes:
        per_hour: In the file's currency, above zero.
        source: Where that is said: the address of a page, an offer, a bill.
    """

    per_hour: float
    source: str

    def __post_init__(self) -> None:
        """Refuses what is no price.

        Raises:
            UsageError: The price is not above zero, or its source is empty.
        """
        if self.per_hour <= 0:
            raise UsageError(f"per_hour is {self.per_hour:g}; a price is above zero")
        if not self.source.strip():
            raise UsageError("source is empty; say where the price is from")


@dataclass(frozen=True, kw_only=True)
class Prices:
    """A file of prices.

    Attributes:
        date: The day on which they were looked up: ``2026-01-19``.
        currency: What they are in, such as ``USD``.
        machines: By the names that results call machines.
    """

    date: str
    currency: str
    machines: dict[str, MachinePrice]

    def __post_init__(self) -> None:
        """Refuses a file that is of no day, in no currency, or of no machine.

        Raises:
            UsageError: One of them is missing or wrong.
        """
        try:
            dt.date.fromisoformat(self.date)
        except ValueError:
            raise UsageError(f"date is {self.date!r:.40} instead of a day such as 2026-01-19") from None
        if not self.currency.strip():
            raise UsageError("currency is empty; say USD, for instance")
        if not self.machines:
            raise UsageError('no machine has a price; add one as [machines."NAME"]')

    def per_hour(self, machine: str) -> float | None:
        """Returns the price of an hour of the machine of that name; ``None`` if there is none."""
        price = self.machines.get(machine)
        return None if price is None else price.per_hour


def read_prices(path: Path) -> Prices:
    """Reads and checks a file of prices.

    Args:
        path: TOML with ``date``, ``currency``, and for each machine ``[machines."NAME"]`` with ``per_hour`` and
            ``source``; nothing else.

    Raises:
        PricesError: There is none, it is not TOML, lacks a key, has one too many, or holds what is no price.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"), parse_float=_finite)
    except FileNotFoundError:
        raise PricesError(f"there is no {path}; copy {EXAMPLE} and enter what you pay") from None
    except OSError as exc:
        raise PricesError(f"{path} cannot be read ({exc.strerror})") from exc
    except (ValueError, RecursionError) as exc:
        raise PricesError(f"{path} is not TOML ({exc}); {EXAMPLE} shows how it is written") from exc
    return _decode(document, path)


def _finite(text: str) -> float | str:
    """Returns a number, or the word itself for nan and inf, so that the key of what is no number gets named."""
    number = float(text)
    return number if math.isfinite(number) else text


def _decode(document: dict[str, Any], path: Path) -> Prices:
    if isinstance(document.get("date"), dt.date):
        document["date"] = document["date"].isoformat()
    try:
        return decode(Prices, document, "prices")
    except ManifestError as exc:
        raise PricesError(f"{path}: {exc}; {EXAMPLE} shows how it is written") from exc


def cost_per_million(items_per_s: float, per_hour: float) -> float:
    """Returns what a million items cost.

    Args:
        items_per_s: Items a second, that are really embedded.
        per_hour: What all machines that do it cost an hour.
    """
    return per_hour / (3600 * items_per_s) * 1e6
