"""Statistics of a case follow from its raw times."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.results.schema import Case
from benchmarks.results.statistics import call_times, median_interval, summarize
from tests.benchmarks.samples import CASE, timed


def test_high_percentiles_are_those_of_all_calls() -> None:
    case = replace(CASE, items=2, rounds=tuple((0.001 * n**2,) for n in range(1, 101)))
    summary = summarize(case)
    assert summary.calls == 100
    assert [summary.p50_ms, summary.mean_ms] == pytest.approx([2550.5, 3383.5])
    assert summary.p95_ms == pytest.approx(9034.55)
    assert summary.p99_ms == pytest.approx(9802.99)
    assert summary.items_per_s == pytest.approx(2 / 3.3835)
    assert summary.warning == "unstable"


@pytest.mark.parametrize(
    ("case", "warning"),
    [
        (replace(CASE, rounds=CASE.rounds[:4]), "few rounds"),
        (replace(CASE, rounds=((0.01,), (0.02,)) * 3), "unstable"),
        (replace(CASE, rounds=((0.01, 0.01, 0.01), (0.01, 0.01, 0.04)) * 5), "unstable"),
        (replace(CASE, stage="graph", rounds=((0.01, 0.01, 0.01), (0.01, 0.01, 0.04)) * 5), ""),
        (replace(CASE, stolen=(0.5,) * 10), "disturbed"),
        (CASE, ""),
    ],
    ids=["few", "unstable", "unstable mean", "stable median", "disturbed", "calm"],
)
def test_doubtful_times_have_a_warning(case: Case, warning: str) -> None:
    assert summarize(case).warning == warning


def test_few_calls_have_no_high_percentiles() -> None:
    assert summarize(timed(CASE, 0.01, rounds=9, calls=11)).p99_ms is None
    assert summarize(timed(CASE, 0.01, rounds=19, calls=1)).p95_ms is None


def test_the_interval_has_its_confidence_level() -> None:
    held = 0
    for seed in range(200):
        low, high = median_interval(call_times(timed(CASE, 0.01, rounds=15, calls=1, seed=seed)), 0.95)
        held += low <= 0.01 <= high
    assert 180 <= held <= 199


def test_the_interval_belongs_to_the_median_that_is_shown() -> None:
    fast_machine, slow_machine = (0.01,) * 100, (0.02,) * 10
    summary = summarize(replace(CASE, rounds=(fast_machine, slow_machine, slow_machine)))
    assert (summary.p50_ms, summary.low_ms, summary.high_ms) == (20, 10, 20)


def test_calls_of_one_round_do_not_narrow_the_interval() -> None:
    summary = summarize(replace(CASE, rounds=tuple((second,) * 100 for second in (0.01, 0.02, 0.03))))
    assert (summary.low_ms, summary.high_ms) == (10, 30)
