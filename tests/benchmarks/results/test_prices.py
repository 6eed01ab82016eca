"""Price files are read, and an error names the wrong key."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.results.prices import EXAMPLE, MachinePrice, PricesError, cost_per_million, read_prices
from tests.paths import ROOT

HEAD = 'date = "2026-01-19"\ncurrency = "EUR"\n'
GOOD = HEAD + '[machines."a box"]\nper_hour = 0.5\nsource = "the bill"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "prices.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("text", [GOOD, GOOD.replace('"2026-01-19"', "2026-01-19")], ids=["quoted", "a date"])
def test_prices_are_read(text: str, tmp_path: Path) -> None:
    prices = read_prices(write(tmp_path, text))
    assert (prices.date, prices.currency) == ("2026-01-19", "EUR")
    assert prices.machines == {"a box": MachinePrice(per_hour=0.5, source="the bill")}


def test_the_example_is_valid() -> None:
    prices = read_prices(ROOT / EXAMPLE)
    assert prices.currency == "USD"
    assert all(0 < price.per_hour < 2 for price in prices.machines.values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.5", "-0.5", "a box: per_hour is -0.5"),
        ("0.5", "0", "a box: per_hour is 0;"),
        ("0.5", "nan", "a box.per_hour is 'nan'"),
        ("0.5", "inf", "a box.per_hour is 'inf'"),
        ("0.5", '"0.5"', "a box.per_hour is '0.5'"),
        ("0.5", "true", "a box.per_hour is True"),
        ("per_hour", "per_minute", "lacks per_hour and has unknown per_minute"),
        ("source", "sauce", "unknown sauce"),
        ("the bill", " ", "source is empty"),
        ("currency", "money", "unknown money"),
        ("EUR", "", "currency is empty"),
        ("2026-01-19", "soon", "date is 'soon'"),
        ('"2026-01-19"', "2026", "date is 2026"),
        ("[machines", "[machines.more", "lacks per_hour, source and has unknown a box"),
        ("[machines", "[machine", "unknown machine"),
        ('[machines."a box"]', "[x]", "lacks machines and has unknown x"),
        ("0.5", "0,5", "is not TOML"),
        ("currency", "date", "is not TOML"),
        ('[machines."a box"]\nper_hour = 0.5\nsource = "the bill"', "[machines]", "no machine has a price"),
    ],
)
def test_an_error_names_the_wrong_entry(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(PricesError) as caught:
        read_prices(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(PricesError, match=f"none.toml does not exist; copy {EXAMPLE}"):
        read_prices(tmp_path / "none.toml")


def test_a_file_without_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_bytes(b"\xff")
    with pytest.raises(PricesError, match="is not TOML"):
        read_prices(tmp_path / "prices.toml")
    with pytest.raises(PricesError, match="cannot read"):
        read_prices(tmp_path)


def test_the_cost_of_a_million_items_is_that_of_their_hours() -> None:
    assert cost_per_million(1e6 / 3600, 0.5) == pytest.approx(0.5)
    assert cost_per_million(100, 0.36) == pytest.approx(1.0)
