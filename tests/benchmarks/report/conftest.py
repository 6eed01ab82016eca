"""A full study, and a bootstrap that is fast."""

from __future__ import annotations

import pytest

from benchmarks.report.analysis import Study, analyze
from tests.benchmarks.report.samples import FULL, PRICES


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the bootstrap fast; other tests cover the intervals."""
    monkeypatch.setattr("benchmarks.results.statistics._RESAMPLES", 100)


@pytest.fixture
def full() -> Study:
    return analyze(FULL, PRICES)
