from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from exporters.errors import VariantError
from exporters.variants import speed
from exporters.variants.builder import check_loads, raise_target


def test_the_target_is_always_above_the_cosine_reached() -> None:
    assert raise_target(0.99, 0.98, 0.99, 0.7) == pytest.approx(1 - 0.7 * 0.5 * 0.01)
    assert 0.99 < raise_target(0.99, 0.999, 0.99, 0.7) < 1
    assert raise_target(1.0, 1.0, 0.99, 0.7) == 1


def test_a_speedup_of_two_is_half_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slow: Any = SimpleNamespace(embed=len, seconds=2.0)
    fast: Any = SimpleNamespace(embed=len, seconds=1.0)
    monkeypatch.setattr(speed, "_time", lambda tower, rows: tower.seconds)
    assert speed.measure_speedup(slow, fast, [np.zeros(1)]) == 2


@pytest.mark.process
def test_a_graph_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(VariantError, match=r"onnxruntime cannot load the graph .*use another --level"):
        check_loads(tmp_path / "broken.onnx")
