"""A run measures all contenders, compares them with one reference, and can be resumed. Nothing here is timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.contenders.protocol import Setup
from benchmarks.measure import run
from benchmarks.measure.plan import make_plan
from benchmarks.measure.run import find_remaining, make_reference, measure_plan, merge_results
from benchmarks.results.schema import Case, Results, Skipped
from runtime.array_types import Array
from runtime.errors import InferenceError, UsageError
from tests.benchmarks.measure.toys import TIMING, text_workload, toy_options, toy_target
from tests.benchmarks.samples import PLAN, RESULTS

pytestmark = pytest.mark.process
CONTENDERS = ("runtime", "torch:eager")


@pytest.fixture(scope="module")
def results(toy: Path, toy_weights: Path) -> Results:
    """One real run of the runtime and torch at both stages."""
    plan = make_plan([toy], toy_options(toy_weights, contenders=CONTENDERS))
    empty = replace(RESULTS, cases=(), skipped=(), artifacts=plan.artifacts, complete=False)
    return measure_plan(plan.groups, empty, TIMING, {}, lambda _: None, lambda _: None)


def find(results: Results, contender: str, stage: str) -> Case:
    return next(case for case in results.cases if (case.contender, case.stage) == (contender, stage))


def test_all_contenders_are_measured_in_the_same_rounds(results: Results) -> None:
    assert [(case.contender, case.variant, case.stage) for case in results.cases] == [
        ("runtime", "fp32", "graph"),
        ("torch", "eager", "graph"),
        ("runtime", "fp32", "end_to_end"),
        ("torch", "eager", "end_to_end"),
    ]
    for case in results.cases:
        assert len(case.rounds) == len(case.yardstick) == len(case.stolen) >= 3
        assert all(second > 0 for turn in case.rounds for second in turn)
        assert case.start_s > case.first_s > 0
        assert case.peak_bytes > 30 * 2**20
    assert results.complete
    timed = results.timed_items["text"]
    assert len(timed.sizes) == 16
    assert timed.source.startswith("docstrings of Python")
    assert 2 < results.mean_tokens["toy"] < 200


def test_vectors_are_compared_with_torch_in_float64(results: Results) -> None:
    for case in results.cases:
        assert case.parity.reference == "torch in float64, each item alone"
        assert 1 - case.parity.min_cosine < 1e-10
        assert case.parity.overlap_at_10 == 1
        assert case.parity.items == 32


def test_work_is_counted_for_graphs_and_steps_are_timed_end_to_end(results: Results) -> None:
    graph, whole = find(results, "runtime", "graph"), find(results, "runtime", "end_to_end")
    assert graph.work is not None
    assert graph.work.operations > 0
    assert graph.work == find(results, "torch", "graph").work
    assert set(whole.stages) == {"tokenize", "infer"}
    assert (graph.tokens, whole.tokens, whole.work) == (8, None, None)


def test_measured_cases_do_not_remain_unless_they_were_disturbed(
    results: Results, toy: Path, toy_weights: Path
) -> None:
    plan = make_plan([toy], toy_options(toy_weights, contenders=CONTENDERS))
    calm = [replace(case, stolen=(0.0, 0.04)) for case in results.cases]
    assert find_remaining(plan, replace(results, cases=tuple(calm)), redo_disturbed=True) == []
    mixed = replace(results, cases=(*calm[:3], replace(calm[3], stolen=(0.2, 0.0))))
    assert find_remaining(plan, mixed, redo_disturbed=False) == []
    assert find_remaining(plan, mixed, redo_disturbed=True) == [plan.groups[1]]


def test_other_weights_than_those_of_the_export_are_an_error(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = toy_target(toy)
    workload = text_workload(target, tmp_path)
    vectors, noise = np.random.default_rng(0).standard_normal((2, 32, 24))
    embedded = {"runtime": vectors, "torch": vectors + 0.1 * noise}  # cosines of about 0.995
    monkeypatch.setattr(run, "embed_alone", lambda setup, *_: embedded[setup.contender])
    with pytest.raises(UsageError, match="--weights toy="):
        make_reference(replace(target, weights="somewhere"), workload, TIMING, tmp_path)


def test_a_contender_that_failed_is_measured_again_after_the_missing_groups(
    results: Results, toy: Path, toy_weights: Path
) -> None:
    plan = make_plan([toy], toy_options(toy_weights, contenders=CONTENDERS))
    calm = [replace(case, stolen=(0.0,)) for case in results.cases]
    assert find_remaining(plan, replace(results, cases=tuple(calm[:1])), redo_disturbed=False) == [*plan.groups[::-1]]


@pytest.mark.parametrize(("failing", "precision"), [((), "float64"), (("float64",), "fp32")])
def test_torch_in_fp32_is_the_reference_if_float64_fails(
    failing: Sequence[str],
    precision: str,
    toy: Path,
    toy_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def embed(setup: Setup, *_: object) -> Array:
        if setup.variant in failing:
            raise InferenceError("no float64 here")
        return np.eye(32)

    monkeypatch.setattr(run, "embed_alone", embed)
    target = replace(toy_target(toy), weights=str(toy_weights))
    reference, skipped = make_reference(target, text_workload(target, tmp_path), TIMING, tmp_path)
    assert reference.name == f"torch in {precision}, each item alone"
    assert [each.name for each in skipped] == [f"toy, text: torch as the reference, in {mode}" for mode in failing]


def test_without_torch_the_exported_graph_is_the_reference(toy: Path, tmp_path: Path) -> None:
    target = toy_target(toy)
    reference, skipped = make_reference(target, text_workload(target, tmp_path), TIMING, tmp_path)
    assert "fp32 on cpu" in reference.name
    assert "--weights toy=WEIGHTS" in skipped[0].reason


def test_skipped_cases_of_other_weights_are_not_kept() -> None:
    names = ("toy: fastembed", "toy, text: torch", "toy2: fastembed", "toy2, text: torch")
    skipped = tuple(Skipped(name=name, reason="name the folder with --weights") for name in names)
    found = replace(RESULTS, plan=replace(PLAN, weights={"toy": "wrong", "toy2": "right"}), skipped=skipped)
    fresh = replace(RESULTS, plan=replace(PLAN, weights={"toy": "right", "toy2": "right"}), skipped=skipped[:1])
    assert {each.name for each in merge_results(found, fresh).skipped} == {names[0], *names[2:]}
    assert merge_results(found, replace(found, skipped=())).skipped == skipped
    unnamed = replace(fresh, plan=replace(PLAN, weights={"toy2": "right"}), skipped=())
    assert [each.name for each in merge_results(found, unnamed).skipped] == [*names[2:]]
