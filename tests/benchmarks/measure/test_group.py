"""A group measures its contenders, and a contender that fails costs only itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.measure import group as groups
from benchmarks.measure.group import CaseGroup, Reference, embed_alone, measure_group
from benchmarks.measure.operations import CountingError, variant_weight_bytes
from benchmarks.measure.plan import make_plan
from benchmarks.results.schema import Work
from benchmarks.results.statistics import summarize
from tests.benchmarks.measure.toys import TIMING, text_workload, toy_options

pytestmark = pytest.mark.process


@pytest.fixture
def group(toy: Path) -> CaseGroup:
    (group,) = make_plan([toy], toy_options(stages=("graph",))).groups
    return group


def test_a_contender_that_fails_costs_only_itself(group: CaseGroup, tmp_path: Path) -> None:
    workload = text_workload(group.target, tmp_path)
    reference = Reference(name="x", vectors=embed_alone(group.setups[0], workload, TIMING, tmp_path))
    bad = replace(group.setups[0], variant="int8")
    bf16 = replace(group.setups[0], variant="bf16", precision="bf16")
    cases, skipped = measure_group(
        replace(group, setups=(bad, *group.setups, bf16)), workload, reference, TIMING, tmp_path
    )
    assert [case.variant for case in cases] == ["fp32", "bf16"]
    whole, half = (case.work for case in cases)
    assert whole is not None
    assert half is not None
    weights = variant_weight_bytes(group.target.folder, group.target.manifest.towers["text"], "fp32")
    assert half == replace(whole, read_bytes=whole.read_bytes - weights + weights // 2), "bf16 runs the graph of fp32"
    assert "runtime int8 on cpu" in skipped[0].name
    assert "int8" in skipped[0].reason


def test_operations_that_cannot_be_counted_cost_only_the_roofline(
    group: CaseGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Work:
        raise CountingError("the graph has a node Einsum")

    monkeypatch.setattr(groups, "count_work", fail)
    workload = text_workload(group.target, tmp_path)
    reference = Reference(name="x", vectors=embed_alone(group.setups[0], workload, TIMING, tmp_path))
    (case,), (skipped,) = measure_group(group, workload, reference, TIMING, tmp_path)
    assert case.work is None
    assert (skipped.name, skipped.reason) == (f"{group}: roofline", "the graph has a node Einsum")


def test_items_that_fit_no_batch_cost_only_their_group(
    group: CaseGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = text_workload(group.target, tmp_path)
    reference = Reference(name="x", vectors=np.eye(2))
    long = replace(group, tokens=10**6)
    monkeypatch.setattr(workload, "_long_texts", lambda *_: ["a short text"])
    cases, (skipped,) = measure_group(long, workload, reference, TIMING, tmp_path)
    assert not cases
    assert "fill only" in skipped.reason


def test_vectors_of_a_batch_are_in_order(group: CaseGroup, tmp_path: Path) -> None:
    workload = text_workload(group.target, tmp_path)
    vectors = embed_alone(group.setups[0], workload, TIMING, tmp_path)
    assert vectors.shape == (32, 24)
    whole = replace(group, stage="end_to_end", items=7, tokens=None)
    (case,), _ = measure_group(whole, workload, Reference(name="x", vectors=vectors), TIMING, tmp_path)
    assert case.parity.min_cosine > 1 - 1e-10
    assert summarize(case).calls >= 3
