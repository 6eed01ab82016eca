"""Test that figures are short."""

from __future__ import annotations

import pytest

from benchmarks.report.format import cosine, digits, percent, short


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12.34, "12.3"),
        (9.996, "10.0"),
        (0.0123456, "0.0123"),
        (1234.5, "1,230"),
        (2.5e7, "2.50e+07"),
        (1e-5, "1.00e-05"),
        (None, "-"),
        (float("nan"), "nan"),
    ],
)
def test_figures_have_three_digits(value: float | None, text: str) -> None:
    assert digits(value) == text


def test_shares_ticks_and_cosines_are_short() -> None:
    assert [percent(share) for share in (0.0, 0.034, 0.5, 1.2)] == ["0%", "3.4%", "50%", "120%"]
    assert [short(tick) for tick in (0.5, 10.0, 1000.0)] == ["0.5", "10", "1,000"]
    assert (cosine(0.99712), cosine(None)) == ("0.99712", "-")
    assert cosine(1 - 3e-12) == "1\u00a0-\u00a03.0e-12"
