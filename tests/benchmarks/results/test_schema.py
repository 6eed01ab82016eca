"""Results come back as they were written, and what is none is refused. Nothing here is timed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.results.schema import Results, ResultsError, read_results, write_text
from benchmarks.results.statistics import median_interval, summarize
from tests.benchmarks.samples import CASE, RESULTS, many_cases, timed


@pytest.fixture
def results() -> Results:
    return replace(RESULTS, cases=many_cases())


def test_results_come_back_as_they_were_written(results: Results, tmp_path: Path) -> None:
    write_text(tmp_path / "results.json", results.to_json())
    assert read_results(tmp_path) == read_results(tmp_path / "results.json") == results
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "upgrade"),
        ({"schema_version": 0}, "measure again"),
        ({"schema_version": "1"}, "no schema_version"),
        ({"command": 3}, "results.command"),
        ({"surprise": 3}, "unknown surprise"),
    ],
    ids=str,
)
def test_what_is_no_result_is_refused(
    change: dict[str, object], message: str, results: Results, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(json.loads(results.to_json()) | change))
    with pytest.raises(ResultsError, match=message):
        read_results(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"], ids=repr)
def test_a_file_that_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ResultsError):
        read_results(path)


def test_a_missing_file_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="python -m benchmarks ARTIFACT"):
        read_results(tmp_path / "none.json")


def test_percentiles_are_those_of_all_calls() -> None:
    case = replace(CASE, items=2, rounds=tuple((0.001 * n,) for n in range(1, 101)))
    summary = summarize(case)
    assert summary.calls == 100
    assert [summary.p50_ms, summary.mean_ms] == pytest.approx([50.5, 50.5])
    assert summary.p95_ms == pytest.approx(95.05)
    assert summary.p99_ms == pytest.approx(99.01)
    assert summary.items_per_s == pytest.approx(2 / 0.0505)
    assert not summary.stable


def test_few_calls_have_no_p99() -> None:
    assert summarize(timed(CASE, 0.01, rounds=9, calls=11)).p99_ms is None


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    held = 0
    for seed in range(200):
        low, high = median_interval(timed(CASE, 0.01, rounds=15, calls=1, seed=seed).rounds, 0.95)
        held += low <= 0.01 <= high
    assert 180 <= held <= 199


def test_calls_of_one_round_are_no_evidence_of_their_own() -> None:
    rounds = [(second,) * 100 for second in (0.01, 0.02, 0.03)]
    low, high = median_interval(rounds, 0.95)
    assert (low, high) == (0.01, 0.03)
