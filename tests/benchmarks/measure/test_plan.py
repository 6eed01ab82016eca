"""A plan knows the weights of each artifact."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure.plan import make_plan
from benchmarks.measure.workload import Workload, load_items
from tests.benchmarks.measure.toys import toy_options
from tests.runtime.toy_artifact import ALL_INPUTS, write_artifact


def test_each_artifact_has_its_own_weights(exported_text: Path) -> None:
    (target,) = make_plan([exported_text], toy_options(Path("somewhere"))).targets
    assert target.weights == "somewhere"
    (target,) = make_plan([exported_text], toy_options()).targets
    assert target.weights == "random:0"


def test_texts_of_a_fixed_length_are_measured_at_that_length(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "toy", padding="max_length", max_length=16)
    groups = make_plan([folder], toy_options(stages=("graph",))).groups
    assert {group.tokens for group in groups} == {16}
    workload = Workload(groups[0].target, load_items("text", tmp_path))
    feeds = workload.write_feeds(tmp_path / "feeds.npz", 2, 16)
    assert {name: array.shape for name, array in feeds.items()} == dict.fromkeys(ALL_INPUTS, (2, 16))
