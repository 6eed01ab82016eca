"""Faults that are planted to see that a gate refuses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from exporters.passes import fuse
from exporters.variants import recipes


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make fusion, except for fp16, write a graph whose largest weight has its columns reversed."""
    right = fuse.fuse

    def wrong(graph: Path, output: Path, level: Any, **of_fp16: bool) -> str | None:
        external_data = right(graph, output, level, **of_fp16)
        if of_fp16:
            return external_data
        model = onnx.load(output)
        weight = next(each for each in model.graph.initializer if list(each.dims) == [400, 24])
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[:, ::-1].copy(), weight.name))
        onnx.save(model, output)
        return external_data

    monkeypatch.setattr(recipes, "fuse", wrong)
