from __future__ import annotations

from pathlib import Path
from typing import get_args

from exporters.calibration.activations import tensor_ranges
from runtime.artifact.variants import CalibrationMethod as Method
from tests.exporters.toy_graphs import random_batches, residual_graph


def test_methods_differ_on_outliers(tmp_path: Path) -> None:
    residual, batches = residual_graph(tmp_path / "residual.onnx"), random_batches(8, 1)
    batches[0]["x"][0, 0, 0] = 12
    highest = {method: tensor_ranges(residual, ["Tanh"], batches, method)["x"][1] for method in get_args(Method)}
    assert highest["minmax"] == 12, highest
    assert highest["entropy"] < 10, highest
    assert len(set(highest.values())) == 3
