"""Results are read as they were written, and other files are errors. Nothing here is timed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.results.schema import Results, ResultsError, read_results
from runtime.atomic_write import write_text
from tests.benchmarks.samples import RESULTS, many_cases


@pytest.fixture
def results() -> Results:
    return replace(RESULTS, cases=many_cases())


def test_results_are_read_as_they_were_written(results: Results, tmp_path: Path) -> None:
    write_text(tmp_path / "results.json", results.to_json())
    assert read_results(tmp_path) == read_results(tmp_path / "results.json") == results
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "upgrade"),
        ({"schema_version": 0}, "run the benchmark again"),
        ({"schema_version": "1"}, "no schema_version"),
        ({"command": 3}, "results.command"),
        ({"surprise": 3}, "unknown surprise"),
    ],
    ids=str,
)
def test_a_wrong_schema_is_an_error(change: dict[str, object], message: str, results: Results, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(json.loads(results.to_json()) | change))
    with pytest.raises(ResultsError, match=message):
        read_results(path)


def test_only_older_results_lack_fields(results: Results, tmp_path: Path) -> None:
    document = json.loads(results.to_json())
    del document["plan"]
    (tmp_path / "r.json").write_text(json.dumps(document))
    with pytest.raises(ResultsError, match="results lacks plan"):
        read_results(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("version", "later"),
    [
        (2, {"plan": None, "environments": {}, "timed_items": {}, "mean_tokens": {}}),
        (3, {"timed_items": {}, "mean_tokens": {}}),
        (4, {"mean_tokens": {}}),
    ],
)
def test_older_results_are_read_with_defaults(
    version: int, later: dict[str, Any], results: Results, tmp_path: Path
) -> None:
    document = json.loads(results.to_json()) | {"schema_version": version}
    path = tmp_path / "r.json"
    path.write_text(json.dumps({key: value for key, value in document.items() if key not in later}))
    assert read_results(path) == replace(results, schema_version=version, **later)


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"], ids=repr)
def test_a_file_that_is_not_json_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ResultsError):
        read_results(path)


def test_a_missing_file_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="python -m benchmarks ARTIFACT"):
        read_results(tmp_path / "none.json")
