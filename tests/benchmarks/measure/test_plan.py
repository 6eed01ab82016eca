"""A plan knows the weights of each artifact."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure.plan import make_plan
from tests.benchmarks.measure.toys import toy_options


def test_each_artifact_has_its_own_weights(exported_text: Path) -> None:
    (target,) = make_plan([exported_text], toy_options(Path("somewhere"))).targets
    assert target.weights == "somewhere"
    (target,) = make_plan([exported_text], toy_options()).targets
    assert target.weights == "random:0"
