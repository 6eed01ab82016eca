"""A plan knows the weights of each artifact."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.measure import plan as plans
from benchmarks.measure.plan import make_plan
from benchmarks.measure.workload import Workload, load_items
from benchmarks.results.schema import PythonEnvironment
from runtime.errors import ProviderError
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


def test_an_environment_of_the_contender_openvino_need_not_have_the_provider(
    exported_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = {"openvino": "1"}
    monkeypatch.setattr(plans, "survey", lambda _: PythonEnvironment(python="3", packages=packages))
    monkeypatch.setattr(plans, "find_setups", lambda *_: ([], []))
    both = toy_options(contenders=("runtime", "openvino"), pythons={"openvino": "python"})
    assert make_plan([exported_text], both).providers == ("cpu",)
    for alone in (toy_options(pythons=both.pythons), toy_options(pythons=both.pythons, providers=("openvino",))):
        with pytest.raises(ProviderError, match="onnxruntime-openvino is not installed in the environment of python"):
            make_plan([exported_text], alone)
    packages["onnxruntime-openvino"] = "1"
    assert make_plan([exported_text], both).providers == ("openvino", "cpu")
